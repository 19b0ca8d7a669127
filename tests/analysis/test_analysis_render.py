"""Tables as Markdown, CSV, LaTeX and HTML: they escape every text, and each format has its own rules."""

from analysis import render

HOSTILE = r'<script>alert(1)</script> \input{x} & % _ $x$ # ~ ^ | `c` "q"'


def test_every_format_escapes():
    table = render.Table(
        caption=HOSTILE,
        columns=(render.Column(title=HOSTILE, align="left"), render.Column(title="code", code=True)),
        rows=((HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
    )
    assert "<script" not in render.html(table)
    latex = render.latex(table)
    assert r"\input" not in latex and r"\textbackslash{}input\{x\} \& \% \_ \$x\$ \#" in latex
    markdown = render.markdown(table)
    assert "<script" not in markdown.replace(render.markdown_code(HOSTILE), "")
    header = next(line for line in markdown.splitlines() if line.startswith("| "))
    assert header.replace(r"\|", "").count("|") == 3
    assert len(render.csv(table).splitlines()) == 2


def test_a_csv_file_may_name_a_column_otherwise_than_its_head():
    columns = (render.Column(title="trainable parameters", csv_name="params"), render.Column(title="method"))
    table = render.Table(caption="c", columns=columns, rows=(("1", "LoRA"),))
    assert render.csv(table).splitlines()[0] == "params,method"
    for text in (render.html(table), render.markdown(table), render.latex(table)):
        assert "params" not in text and "method" in text


def test_a_repeated_text_is_written_once_except_in_csv():
    table = render.Table(
        caption="c",
        columns=(render.Column(title="method", align="left", once=True), render.Column(title="x")),
        rows=(("LoRA", "1"), ("LoRA", "1"), ("DePT", "1")),
    )
    assert render.csv(table) == "method,x\nLoRA,1\nLoRA,1\nDePT,1\n"
    for text in (render.html(table), render.markdown(table), render.latex(table)):
        assert (text.count("LoRA"), text.count("DePT")) == (1, 1)
    assert render.html(table).count('<tr class="more">') == 1


def test_latex_signs():
    assert render.latex_text("-5.7 pp, Δ × 2 ≥ 1 – n=10") == r"$-$5.7 pp, $\Delta$ $\times$ 2 $\geq$ 1 -- n=10"
    assert render.latex_text("LoPT-1") == "LoPT-1"


def test_a_negative_number_has_a_minus_for_readers_and_a_hyphen_in_data():
    columns = (render.Column(title="difference, pp"), render.Column(title="code", align="left", code=True))
    rows = (("-1.5 [-2.0, +1.0]", "--audit -1"),)
    table = render.Table(caption="c", columns=columns, rows=rows, notes=("From -1 to LoPT-1.",))
    for text in (str(render.html(table)), render.markdown(table)):
        assert "−1.5 " in text and "−2.0" in text and "From −1 to LoPT-1." in text and "--audit -1" in text
    assert render.csv(table).splitlines()[1] == '"-1.5 [-2.0, +1.0]",--audit -1'
    assert "$-$1.5 {[}$-$2.0, +1.0]" in render.latex(table)


def test_the_page_breaks_lists_of_words_and_keeps_numbers_whole():
    is_broken = {"answers, dropout": True, "batch size, steps": True, "x" * 26: True}
    is_broken |= {"dropout": False, "[79.2, 84.8]": False, "-0.5": False}
    for cell, expected in is_broken.items():
        page = render.html(render.Table(caption="c", columns=(render.Column(title="a"),), rows=((cell,),)))
        assert (' long"' in page) is expected, cell
