// Below each board: what compute and the link do in the pass at the cursor. A missing expert crosses while
// compute waits, one fetched ahead crosses beside compute; while the pass is played, the expert is seen on
// its way into its cell.

const LINK_FILLS = { [DEMANDED]: "link-fill", [GUESS_USED]: "ahead", [GUESS_WASTED]: "ahead-fill" }
const COMPUTE_FILLS = { [COMPUTES]: "hit", [STALLS]: "wait", [OTHER]: "other" }

class Link {
  constructor(board) {
    this.board = board
  }

  height(theme) {
    this.size = theme.size
    this.lane = Math.round(theme.size * 0.95)
    return 2 * this.lane + 5 + Math.ceil(theme.size * 1.28) + 14 // the caption's letters reach below its line
  }

  draw() {
    const { board, lane } = this
    const { sheet, theme, run, pass, stage } = board
    const { phrases } = run.model.payload
    const clock = run.clock
    const top = sheet.height - board.linkHeight + 10
    const labels = Math.max(sheet.wide("compute", this.size), sheet.wide("link", this.size)) + 10
    const left = Math.max(board.left, labels)
    const width = sheet.width - left - 2
    const scale = clock.wall ? clock.wall[pass] / stage.longest(pass) : 1
    const full = width * scale
    sheet.text("compute", left - 8, top + lane * 0.5 + this.size * 0.36, { colour: "muted", align: "right" })
    sheet.text("link", left - 8, top + lane * 1.5 + 5 + this.size * 0.36, { colour: "muted", align: "right" })
    const c = sheet.context
    const segments = clock.segments(pass)
    c.fillStyle = theme.line
    c.globalAlpha = 0.45
    c.fillRect(left, top + lane + 5, full, lane)
    c.globalAlpha = 1
    for (const one of segments) {
      const x = left + one.start * full,
        w = Math.max(1, (one.end - one.start) * full)
      const y = one.lane === COMPUTE ? top : top + lane + 5
      c.fillStyle = theme[one.lane === COMPUTE ? COMPUTE_FILLS[one.kind] : LINK_FILLS[one.kind]]
      c.fillRect(x, y, w, lane)
      if (one.kind === STALLS) this.hatch(x, y, w)
    }
    for (const one of segments) {
      if (one.lane !== LINK) continue
      const x = left + one.start * full,
        w = (one.end - one.start) * full
      const names = [`layer ${one.layer}, expert ${one.expert}`, `expert ${one.expert}`, `${one.expert}`]
      const name = names.find((text) => w > sheet.wide(text, this.size, 600) + 6)
      if (w > 3) sheet.line(x, top + lane + 5, x, top + 2 * lane + 5, "panel", 1)
      if (name) {
        const colour = { [DEMANDED]: "glyph", [GUESS_USED]: "paper", [GUESS_WASTED]: "ink" }[one.kind]
        sheet.text(name, x + w / 2, top + lane * 1.5 + 5 + this.size * 0.35, {
          size: this.size,
          weight: 600,
          align: "center",
          colour,
        })
      }
    }
    if (stage.layer !== null && !stage.apart) this.markLayer(segments, left, top, full)
    if (board.t < 1 && !stage.still) this.playing(segments, left, top, full)
    const base = top + 2 * lane + 5 + this.size + 4
    const captions = this.captions(clock, pass, phrases)
    const source = clock.wall ? say(phrases[clock.source], { name: clock.of }) : ""
    const sources = [source, phrases[`${clock.source} short`] ?? source]
    const both = (said, from) => sheet.wide(said, this.size) + sheet.wide(from, this.size) + 16 < width
    const said = captions.find((caption) => sources.some((from) => both(caption, from))) ?? captions.at(-1)
    sheet.text(said, left, base, { colour: "muted", room: width })
    const shown = sources.find((from) => both(said, from))
    if (shown) sheet.text(shown, sheet.width - 2, base, { colour: "muted", align: "right" })
    board.canvas.dataset.source = source
  }

  // A tooltip for what is below the cells.
  hint() {
    const { canvas, run, stage } = this.board
    const { source } = run.clock
    const told = ["measured", "modelled"].filter((term) => source.startsWith(term))
    tip(canvas, stage.model.payload, ["compute", "stall", "link", ...told])
  }

  // What compute waits for in a pass, the longest wording first.
  captions(clock, pass, phrases) {
    const { run } = this.board
    const { ms, copies, ahead } = clock.waits(pass)
    if (ms === null && clock.source) return [""]
    if (ms === null && run.model.payload.live) return [phrases["no times yet"]]
    if (ms === null) return [phrases["no times"], phrases["no times short"]]
    const many = copies ? say(phrases["experts cross"], { n: copies }) : phrases.copies
    const count = copies === 1 ? phrases["expert crosses"] : many
    const waits = ms >= 0.005
    const said = say(phrases[waits ? "waits for" : "waits no"], {
      ms: digits(waits ? ms : clock.wall[pass]),
      count,
    })
    const all = ahead ? [`${said}, ${say(phrases.ahead, { n: ahead })}`, said] : [said]
    return waits ? [...all, say(phrases["waits short"], { ms: digits(ms) })] : all
  }

  hatch(x, y, w) {
    const { sheet, theme } = this.board
    const c = sheet.context
    c.save()
    c.beginPath()
    c.rect(x, y, w, this.lane)
    c.clip()
    c.strokeStyle = theme.panel
    c.lineWidth = 1.2
    c.beginPath()
    for (let at = Math.floor(x / 6) * 6 - this.lane; at < x + w; at += 6) {
      c.moveTo(at, y + this.lane)
      c.lineTo(at + this.lane, y)
    }
    c.stroke()
    c.restore()
  }

  // In slow motion: the stretch of the layer that is being looked at.
  markLayer(segments, left, top, full) {
    const own = segments.filter((one) => one.layer === this.board.stage.layer && one.lane === COMPUTE)
    if (!own.length) return
    const from = left + Math.min(...own.map((one) => one.start)) * full
    const to = left + Math.max(...own.map((one) => one.end)) * full
    const c = this.board.sheet.context
    c.strokeStyle = this.board.theme.ink
    c.lineWidth = 2
    c.strokeRect(from - 1, top - 2, Math.max(to - from, 3) + 2, this.lane + 4)
  }

  playing(segments, left, top, full) {
    const { board, lane } = this
    const { sheet, theme, run, t } = board
    const c = sheet.context
    c.fillStyle = theme.panel
    c.globalAlpha = 0.75
    c.fillRect(left + t * full, top - 1, full * (1 - t) + 1, 2 * lane + 7)
    c.globalAlpha = 1
    sheet.line(left + t * full, top - 3, left + t * full, top + 2 * lane + 8, "ink", 2)
    if (board.small) return
    for (const one of segments) {
      if (one.lane !== LINK || t < one.start || t > one.end) continue
      const to = board.place(one.layer * run.model.experts + one.expert)
      if (!to) continue
      const part = (t - one.start) / Math.max(one.end - one.start, 1e-6)
      const from = { x: left + ((one.start + one.end) / 2) * full, y: top + lane + 5 }
      const x = from.x + (to.x - from.x) * part,
        y = from.y + (to.y - from.y) * part
      sheet.line(from.x, from.y, x, y, one.kind === DEMANDED ? "link-fill" : "ahead", 1.5)
      const name = String(one.expert)
      const w = Math.max(sheet.wide(name, this.size, 700) + 10, this.size * 1.5),
        h = this.size * 1.4
      c.fillStyle = theme[one.kind === DEMANDED ? "link-fill" : "ahead"]
      c.beginPath()
      c.roundRect(x - w / 2, y - h / 2, w, h, 4)
      c.fill()
      c.strokeStyle = theme.panel
      c.lineWidth = 1.5
      c.stroke()
      sheet.text(name, x, y + this.size * 0.36, {
        weight: 700,
        align: "center",
        colour: one.kind === DEMANDED ? "glyph" : "paper",
      })
    }
  }
}

const digits = (ms) => (ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2))
