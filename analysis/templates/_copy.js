// A button beside each piece of code copies it. Where the clipboard is closed to pages, it selects the code.
document.querySelectorAll(".copy").forEach(box => {
  const button = box.querySelector("button"), code = box.querySelector("code");
  const say = text => { button.textContent = text; setTimeout(() => { button.textContent = "Copy"; }, 1500); };
  button.hidden = false;
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      say("Copied");
    } catch {
      say(document.execCommand("copy") ? "Copied" : "Selected");
    }
  });
});
