"use strict";
const POLL_MS = 2000, MOST_ROWS = 100, MOST_PANELS = 48, LATEST = 25;
const rows = new Map();
let session = "", version = 0, state = null, receivedAt = 0, failures = 0;

const find = selector => document.querySelector(selector);
const percent = value => value == null ? "" : (100 * value).toFixed(1) + " %";
const integer = value => value == null ? "" : value.toLocaleString("en");
const rate = value => value == null ? "" : Number(value.toPrecision(3)).toString();
const duration = seconds => {
  if (seconds == null) return "";
  const s = Math.max(0, Math.round(seconds)), pad = number => String(number).padStart(2, "0");
  return s >= 3600 ? `${Math.floor(s / 3600)}:${pad(Math.floor(s / 60) % 60)}:${pad(s % 60)}` : `${Math.floor(s / 60)}:${pad(s % 60)}`;
};
const element = (name, content = "", className = "") => {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (content instanceof Node) node.append(content); else node.textContent = content;
  return node;
};
const bar = share => {
  const outer = element("div", "", "bar"), inner = element("i");
  inner.style.width = `${100 * Math.min(1, Math.max(0, share || 0))}%`;
  outer.append(inner);
  return outer;
};

async function poll() {
  try {
    const response = await fetch(`state?session=${session}&since=${version}`, {cache: "no-store"});
    if (!response.ok) throw new Error(response.statusText);
    const update = await response.json();
    if (update.session !== session) { rows.clear(); session = update.session; }
    for (const key of update.gone) rows.delete(key);
    for (const change of update.rows) {
      const points = (rows.get(change.key)?.points ?? []).slice(0, change.first_point);
      rows.set(change.key, {...change, points: points.concat(change.points)});
    }
    const isNew = update.version !== version || !state;
    version = update.version; state = update; receivedAt = Date.now(); failures = 0;
    if (isNew) draw();
    drawHead();
  } catch (error) {
    failures += 1;
    drawHead();
  }
  setTimeout(poll, POLL_MS);
}

function draw() {
  const all = [...rows.values()];
  const runs = all.filter(row => ["running", "waiting", "paused"].includes(row.status));
  const ended = all.filter(row => row.wall_time_s != null);
  drawFailures(ended);
  drawPanels(all);
  drawRunning(runs);
  drawRungs(all.filter(row => row.phase === "search"));
  drawStops(ended);
  drawEnded(ended);
  if (state.answers != null) { find("#answers").innerHTML = state.answers; find("#answers-section").hidden = !state.answers; }
}

function drawHead() {
  const run = state?.run, progress = state?.status?.progress, badge = find("#badge"), banner = find("#banner");
  const isRunning = run?.exists && run.status === "running";
  find("#age").textContent = receivedAt ? `updated ${Math.round((Date.now() - receivedAt) / 1000)} s ago` : "";
  let text = run ? (run.exists ? run.status : "not begun") : "loading", kind = "", message = run?.problem ?? "";
  if (isRunning && !run.is_alive) {
    text = "no sign of life"; kind = "bad";
    message ||= "The command that works on this run has written nothing for a while: it has just begun, or it was killed. The same command continues the run.";
  } else if (run?.exists && run.status === "complete") kind = "good";
  else if (run?.exists && run.status === "stopped") text = "stopped at a budget";
  else if (run && !run.exists) message ||= `There is no run in ${run.location} yet. The page shows it when it begins.`;
  if (failures > 1) { text = "disconnected"; kind = "bad"; message = "The page has lost its server. If you start the same command again (with --port, if the address changes), the page goes on by itself."; }
  badge.textContent = text; badge.className = `badge ${kind}`;
  banner.hidden = !message; banner.textContent = message;
  if (!run) return;
  find("#name").textContent = run.name ?? run.location;
  find("#title").textContent = run.title ?? "";
  document.title = progress ? `${progress.done_count}/${progress.total_count} ${run.name}` : run.location;
  drawTiles(run, progress, isRunning && run.is_alive);
}

function drawTiles(run, progress, isLive) {
  const tiles = [], tile = (title, value, note = "", share = null) => {
    const node = element("div", "", "tile");
    node.append(element("span", title), element("b", value));
    if (note) node.append(element("span", note));
    if (share != null) node.append(bar(share));
    tiles.push(node);
  };
  const count = status => [...rows.values()].filter(row => row.wall_time_s != null && row.status === status).length;
  const done = [...rows.values()].filter(row => row.wall_time_s != null).length;
  const total = progress?.total_count ?? 0;
  tile("trials done", total ? `${integer(done)} of ${integer(total)}` : integer(done), run.seeds_are_added ? "seeds are added until it is decided" : "", total ? done / total : null);
  if (progress && isLive) tile("running", integer(progress.running_count), progress.waiting_count ? `${progress.waiting_count} waiting for room` : "");
  tile("stopped early", integer(count("stopped")), count("diverged") ? `${count("diverged")} diverged` : "");
  tile("failed", integer(count("failed")));
  if (state.status.steps_per_s != null && isLive) {
    const hours = state.status.budget.wall_time_s / 3600;
    const ended = Object.values(progress.count_by_status).reduce((sum, number) => sum + number, 0);
    tile("steps a second", rate(state.status.steps_per_s), hours > 0 ? `${integer(Math.round(ended / hours))} trials an hour` : "");
  }
  const predicted = run.prediction && run.elapsed_s != null ? (() => {
    const used = run.elapsed_s - run.prediction.elapsed_before_s;
    return `by the probe ${duration(run.prediction.low_s - used)} to ${duration(run.prediction.high_s - used)}`;
  })() : "";
  if (progress && isLive) tile("time left", progress.left_s == null ? "not known yet" : `about ${duration(progress.left_s)}`, predicted);
  const budget = state.status.budget;
  if (run.elapsed_s != null) tile("time used", duration(run.elapsed_s), "by all commands of the run");
  if (budget) {
    const limits = [["wall time of this command", budget.wall_time_s, budget.max_wall_time_s, duration],
      ["GPU-hours of this command", budget.gpu_hours, budget.max_gpu_hours, rate],
      ["trials begun by this command", budget.started_count, budget.max_trials, integer]];
    for (const [title, used, limit, format] of limits)
      if (limit != null) tile(`budget: ${title}`, `${format(used)} of ${format(limit)}`, "", used / limit);
  }
  find("#tiles").replaceChildren(...tiles);
}

function drawFailures(ended) {
  const failed = ended.filter(row => row.status === "failed");
  const nodes = failed.slice(-LATEST).map(row => {
    const details = element("details"), summary = element("summary", `${row.cell}, ${row.phase}, learning rate ${rate(row.learning_rate)}: `);
    details.dataset.key = row.key;
    summary.append(element("span", row.error, "failed"));
    details.append(summary, element("pre", row.traceback || "there is no traceback"));
    return details;
  });
  nodes.push(...state.unreadable.map(text => element("p", `a record cannot be read: ${text}`)));
  const box = find("#failures .card"), open = new Set([...box.querySelectorAll("details[open]")].map(node => node.dataset.key));
  nodes.forEach(node => { if (open.has(node.dataset?.key)) node.open = true; });
  find("#failures").hidden = !nodes.length;
  box.replaceChildren(...nodes);
}

function drawPanels(all) {
  const cells = new Map();
  for (const row of all) if (row.points.length) (cells.get(row.cell) ?? cells.set(row.cell, []).get(row.cell)).push(row);
  const names = [...cells.keys()].sort((a, b) => a.localeCompare(b, "en", {numeric: true})), box = find("#curves .panels");
  find("#curves").hidden = !names.length;
  find("#rung-legend").textContent = state.run.rungs?.length ? "· dotted lines: rungs" : "";
  find("#curves .notes").textContent = names.length > MOST_PANELS ? `${names.length - MOST_PANELS} more cells are not drawn.` : "";
  const old = new Map([...box.children].map(node => [node.dataset.cell, node]));
  const panels = names.slice(0, MOST_PANELS).map(name => {
    let panel = old.get(name);
    if (!panel) {
      panel = element("div", "", "panel"); panel.dataset.cell = name;
      panel.append(element("h3", name), element("p"), element("canvas"));
    }
    const trials = cells.get(name), live = trials.filter(row => row.status === "running").length;
    const best = Math.max(...trials.map(row => row.score ?? 0));
    panel.querySelector("p").textContent = `${trials.length} trial${trials.length > 1 ? "s" : ""}${live ? `, ${live} running` : ""}, best ${percent(best)}`;
    panel.dataset.points = trials.reduce((sum, row) => sum + row.points.length, 0);
    return panel;
  });
  if (panels.length !== box.children.length || panels.some((panel, at) => box.children[at] !== panel)) box.replaceChildren(...panels);
  panels.forEach(panel => drawCurves(panel.querySelector("canvas"), cells.get(panel.dataset.cell), panel.dataset.cell));
}

function drawCurves(canvas, trials, name) {
  const style = getComputedStyle(document.documentElement), colour = variable => style.getPropertyValue(variable).trim();
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
  if (!width) return;
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Held-out scores of ${trials.length} trials of ${name} by step`);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "11px system-ui, sans-serif";
  const scores = trials.flatMap(row => row.points.map(point => point[1])).filter(score => score != null);
  let low = Math.min(...scores.length ? [scores.reduce((a, b) => Math.min(a, b))] : [0]), high = scores.reduce((a, b) => Math.max(a, b), low);
  const room = Math.max(.01, .08 * (high - low)); low -= room; high += room;
  const last = Math.max(1, ...trials.map(row => row.max_steps ?? 1));
  const left = 42, bottom = height - 18, x = step => left + (width - left - 8) * step / last, y = score => bottom - (bottom - 6) * (score - low) / (high - low);
  pen.strokeStyle = colour("--line"); pen.fillStyle = colour("--muted"); pen.lineWidth = 1;
  for (const share of [0, .5, 1]) {
    const score = low + room + share * (high - low - 2 * room), at = Math.round(y(score)) + .5;
    pen.beginPath(); pen.moveTo(left, at); pen.lineTo(width - 8, at); pen.stroke();
    pen.textAlign = "right"; pen.fillText((100 * score).toFixed(high - low < .1 ? 1 : 0) + " %", left - 4, at + 4);
  }
  pen.textAlign = "left"; pen.fillText("0", left, height - 4);
  pen.textAlign = "right"; pen.fillText(`${integer(last)} steps`, width - 8, height - 4);
  pen.setLineDash([2, 3]); pen.strokeStyle = colour("--faint");
  for (const rung of state.run.rungs ?? []) { pen.beginPath(); pen.moveTo(x(rung), 4); pen.lineTo(x(rung), bottom); pen.stroke(); }
  pen.setLineDash([]);
  const colours = {complete: "--good", stopped: "--faint", failed: "--bad", diverged: "--bad"}, place = row => ["stopped", "complete", "failed", "diverged"].indexOf(row.status);
  for (const row of [...trials].sort((a, b) => (place(a) + 9) % 9 - (place(b) + 9) % 9)) {
    const points = row.points.filter(point => point[1] != null);
    if (!points.length) continue;
    pen.strokeStyle = pen.fillStyle = colour(colours[row.status] ?? "--accent");
    pen.lineWidth = row.wall_time_s == null ? 2 : 1.2;
    pen.globalAlpha = trials.length > 60 ? .5 : 1;
    pen.beginPath();
    points.forEach(([step, score], at) => at ? pen.lineTo(x(step), y(score)) : pen.moveTo(x(step), y(score)));
    pen.stroke();
    const [step, score] = points[points.length - 1];
    pen.beginPath(); pen.arc(x(step), y(score), 2.4, 0, 7); pen.fill();
    pen.globalAlpha = 1;
  }
}

const cells = (...contents) => contents.map(([content, className = "left"]) => element("td", content, className));
const line = (row, ...contents) => { const node = element("tr"); node.dataset.key = row.key; node.append(...cells(...contents)); return node; };

function drawRunning(runs) {
  find("#running").hidden = !runs.length;
  const order = {running: 0, paused: 1, waiting: 2};
  runs.sort((a, b) => order[a.status] - order[b.status] || b.step / b.max_steps - a.step / a.max_steps || a.key.localeCompare(b.key));
  find("#running tbody").replaceChildren(...runs.slice(0, MOST_ROWS).map(row => {
    const step = element("span");
    step.append(bar(row.step / row.max_steps), ` ${integer(row.step)} of ${integer(row.max_steps)}`);
    const where = row.status === "running" ? [row.device, row.note].filter(Boolean).join(", ") : {waiting: "waits for room", paused: "paused at a budget or an interruption"}[row.status];
    return line(row, [row.cell], [row.phase], [rate(row.learning_rate), "right"], [String(row.seed), "right"], [step], [percent(row.points.at(-1)?.[1]), "right"], [percent(row.score), "right"], [where]);
  }));
  find("#running .notes").textContent = runs.length > MOST_ROWS ? `${integer(runs.length - MOST_ROWS)} more are not listed.` : "";
}

function drawRungs(searched) {
  const rungs = state.run.rungs ?? [], strata = new Map();
  for (const row of searched) (strata.get(row.stratum) ?? strata.set(row.stratum, []).get(row.stratum)).push(row);
  find("#rungs").hidden = !rungs.length || !strata.size;
  if (!rungs.length) return;
  const table = element("table"), head = element("tr"), body = element("tbody");
  head.append(element("th", "trials compared with one another", "left"), ...rungs.map(rung => element("th", `step ${integer(rung)}`, "right")), element("th", "to the end", "right"));
  for (const [name, trials] of [...strata].sort((a, b) => a[0].localeCompare(b[0], "en", {numeric: true}))) {
    const node = element("tr");
    node.append(element("td", name, "left"));
    rungs.forEach((rung, at) => {
      const next = rungs[at + 1] ?? Infinity, reached = trials.filter(row => row.step >= rung).length;
      const stopped = trials.filter(row => row.status === "stopped" && row.step >= rung && row.step < next).length;
      node.append(element("td", `${reached} reached, ${stopped} stopped`, "right"));
    });
    node.append(element("td", String(trials.filter(row => row.status === "complete").length), "right"));
    body.append(node);
  }
  const top = element("thead"); top.append(head); table.append(top, body);
  find("#rungs .scroll").replaceChildren(element("p", `Rule: ${state.run.stopping}.`, "caption"), table);
}

function drawStops(ended) {
  const stopped = ended.filter(row => row.status === "stopped").sort((a, b) => endOf(b) - endOf(a));
  find("#stops").hidden = !stopped.length;
  find("#stops tbody").replaceChildren(...stopped.slice(0, LATEST).map(row =>
    line(row, [row.cell], [rate(row.learning_rate), "right"], [integer(row.step), "right"], [percent(row.score), "right"], [row.reason ?? "not known any more", "left why"])));
  find("#stops .notes").textContent = stopped.length > LATEST ? `${integer(stopped.length - LATEST)} earlier ones are not listed.` : "";
}

const endOf = row => Date.parse(row.started_at) / 1000 + row.wall_time_s;

function drawEnded(ended) {
  find("#ended").hidden = !ended.length;
  find("#ended tbody").replaceChildren(...[...ended].sort((a, b) => endOf(b) - endOf(a)).slice(0, LATEST).map(row =>
    line(row, [row.cell], [row.phase], [rate(row.learning_rate), "right"], [String(row.seed), "right"], [row.status, `left ${row.status}`], [integer(row.step), "right"], [percent(row.score), "right"], [percent(row.test_accuracy), "right"], [duration(row.wall_time_s), "right"])));
}

addEventListener("resize", () => { if (state) drawPanels([...rows.values()]); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (state) drawPanels([...rows.values()]); });
setInterval(drawHead, 1000);
poll();
