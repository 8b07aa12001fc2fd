// Beside the curves: what was measured of the boards, a row a setting with its speed, the parts of a token's
// time with the time of every repeat drawn on them, and the verdict. Dimmed once the boards show something
// else.

const PARTS = ["compute", "waits", "other"]

class Results {
  constructor(stage) {
    this.stage = stage
    this.root = element("section", "results")
    this.root.hidden = true
    this.root.tabIndex = 0 // so that many rows are scrolled by the keyboard too
  }

  take() {
    const { payload } = this.stage.model
    const { results, phrases } = payload
    const now = JSON.stringify(results ?? null)
    if (this.shown === now) return
    this.shown = now
    this.root.hidden = !results
    if (!results) return
    this.root.classList.toggle("stale", results.stale)
    this.root.setAttribute("aria-label", results.title)
    const times = results.rows.flatMap((row) => [row.ms[0] + row.ms[1] + row.ms[2], ...row.repeats])
    const all = Math.max(...times)
    const list = element("ul")
    for (const row of results.rows) list.append(this.row(row, all, phrases))
    const parts = element("p", "parts")
    parts.append(element("span", "", phrases["time of a token"]))
    for (const part of [...PARTS, "each repeat"]) {
      const name = part.replace(" ", "-")
      const sign = element("span", `of-${name}`)
      sign.append(element("i", name), phrases[part])
      parts.append(sign)
    }
    const heading = element("h2", "", results.title)
    tip(heading, payload, ["paced", "measured"].filter((term) => results.title.toLowerCase().includes(term)))
    this.root.replaceChildren(
      heading,
      list,
      parts,
      ...(results.verdict ? [element("p", "says", results.verdict)] : []),
    )
  }

  row(row, all, phrases) {
    const item = element("li", { 0: "a", 1: "b" }[row.board] ?? "")
    const bar = element("div", "bar")
    bar.setAttribute("role", "img")
    const told = say(phrases[row.repeats.length % 2 ? "the middle one" : "the middle two"], {
      parts: PARTS.map((part, i) => `${phrases[part]} ${digits(row.ms[i])} ms`).join(", "),
      each: row.repeats.map(digits).join(", "),
    })
    bar.setAttribute("aria-label", told)
    bar.title = told
    row.ms.forEach((ms, i) => {
      const piece = element("span", PARTS[i])
      piece.style.width = `${(100 * ms) / (all || 1)}%`
      bar.append(piece)
    })
    for (const ms of row.repeats) {
      const dot = element("i", "each-repeat")
      dot.style.left = `${(100 * ms) / (all || 1)}%`
      bar.append(dot)
    }
    item.append(element("strong", "", row.name), bar, element("span", "speed", row.speed))
    return item
  }
}
