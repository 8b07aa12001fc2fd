// The curves that grow with the cursor: hits of the last passes and so far, for each board; the bound in
// grey; the subject changes.

const WINDOW = 16
const SPAN = 1000 // passes that are drawn at once; of a longer text those around the cursor

class Curves {
  constructor(stage) {
    this.stage = stage
    this.root = element("div", "curves")
    this.canvas = element("canvas")
    this.canvas.setAttribute("role", "img")
    this.root.append(this.canvas)
    this.sheet = new Sheet(this.canvas)
    const go = (event) => this.stage.go(this.passUnder(event))
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId)
      go(event)
    })
    this.canvas.addEventListener("pointermove", (event) => event.buttons && go(event))
  }

  take() {
    const { model, boards } = this.stage
    this.series = boards.map((board) => model.ratios(board.run.hits, WINDOW))
    // a board that does what the bound does is its own line
    const own = model.bound && !this.stage.boards.some((board) => board.run.about.id === model.bound.id)
    this.bound = own ? model.ratios(model.bound.hits, WINDOW) : null
    let least = 1
    // the first passes find an empty cache
    const from = model.passes > 3 * WINDOW ? WINDOW : Math.min(4, model.passes - 1)
    for (const one of this.series)
      for (let pass = from; pass < model.passes; pass++) least = Math.min(least, one.recent[pass])
    this.floor = clamp(Math.floor(least * 10 - 0.2) / 10, 0, 0.9)
    this.first = 0
  }

  fit(theme) {
    this.theme = theme
    this.sheet.fit(theme)
  }

  get last() {
    return Math.min(this.first + SPAN, this.stage.model.passes) - 1
  }

  x(pass) {
    return this.left + (this.plot * (pass - this.first)) / Math.max(1, this.last - this.first)
  }

  y(ratio) {
    return this.bottom - ((ratio - this.floor) / (1 - this.floor)) * (this.bottom - this.top)
  }

  draw() {
    const { stage, sheet, theme } = this
    const { model } = stage
    const { phrases } = model.payload
    const size = theme.size
    sheet.clear()
    const furthest = Math.max(...stage.boards.map((board) => board.pass))
    if (furthest < this.first || furthest > this.last - SPAN / 10) {
      this.first = clamp(furthest - SPAN / 5, 0, Math.max(0, model.passes - SPAN))
    }
    this.left = sheet.wide("100%", size) + 12
    this.plot = sheet.width - this.left - 12
    this.top = size + 8
    this.bottom = sheet.height - 6
    const lines = this.bottom - this.top > size * 5 ? [this.floor, (1 + this.floor) / 2, 1] : [this.floor, 1]
    for (const ratio of lines) {
      sheet.line(this.left, this.y(ratio), this.left + this.plot, this.y(ratio), "line", 1)
      const y = clamp(this.y(ratio) + size * 0.36, size, sheet.height - 2)
      sheet.text(`${Math.round(ratio * 100)}%`, this.left - 8, y, { align: "right", colour: "muted" })
    }
    this.heading(phrases, size)
    for (const one of this.changes)
      sheet.line(this.x(one.pass), this.top - 2, this.x(one.pass), this.bottom, "ink", 1.5, [4, 3])
    const reached = stage.boards.map((board) => board.pass)
    const c = sheet.context
    c.save()
    c.beginPath()
    c.rect(this.left, this.top - 3, this.plot, this.bottom - this.top + 4)
    c.clip()
    if (this.bound) this.curve(this.bound.recent, 0, furthest, theme.other, 2, [])
    for (const ghost of [true, false]) {
      this.series.forEach((one, i) => {
        const colour = theme[i ? "b-mark" : "a-mark"]
        const dash = i ? [7, 4] : []
        if (ghost) {
          if (stage.host.future === false) return
          c.globalAlpha = 0.22
          this.curve(one.recent, reached[i], model.passes - 1, colour, 1.5, [])
          if (this.bound && i === 0)
            this.curve(this.bound.recent, furthest, model.passes - 1, theme.other, 1.5, [])
          c.globalAlpha = 1
        } else {
          this.curve(one.all, 0, reached[i], colour, 1.2, [2, 3])
          this.curve(one.recent, 0, reached[i], colour, 3, dash)
        }
      })
    }
    c.restore()
    this.drawChanges(size, this.x(furthest), this.drawCursor(reached, furthest, size))
  }

  get changes() {
    return this.stage.model.changes.filter((one) => one.pass >= this.first && one.pass <= this.last)
  }

  heading(phrases, size) {
    const { sheet } = this
    const { passes, promptEnd } = this.stage.model
    const read = promptEnd > 0 && promptEnd < passes // the window begins anew after the prompt
    const part =
      passes > SPAN ? ` · ${say(phrases.part, { a: this.first, b: this.last, n: passes - 1 })}` : ""
    const said = say(phrases[read ? "curves after the prompt" : "curves"], { n: WINDOW })
    tip(this.canvas, this.stage.model.payload, ["hit ratio", "belady", "bound"], said)
    let x = this.left
    const put = (text, room = Infinity) => {
      sheet.text(text, x, size, { room })
      x += sheet.wide(text, size)
    }
    const sign = (width, dash) => {
      sheet.line(x, size * 0.66, x + 2 * size, size * 0.66, "ink", width, dash)
      x += 2.4 * size
    }
    put(`${phrases["hit ratio"]}  `)
    sign(3, [])
    put(`${say(phrases.last, { n: WINDOW })}   `)
    sign(1.4, [2, 3])
    put(`${phrases["so far"]}${part}`, this.left + this.plot - x)
  }

  curve(values, from, to, colour, width, dash) {
    from = Math.max(from, this.first)
    to = Math.min(to, this.last)
    if (to < from) return
    const c = this.sheet.context
    c.strokeStyle = colour
    c.lineWidth = width
    c.lineJoin = "round"
    c.setLineDash(dash)
    c.beginPath()
    for (let pass = from; pass <= to; pass++) {
      const x = this.x(pass),
        y = this.y(values[pass])
      if (pass === from) c.moveTo(x, y)
      else c.lineTo(x, y)
    }
    c.stroke()
    c.setLineDash([])
  }

  // Beside the line of each change of subject the old name and the new one, where neither the cursor's line
  // at `cursor` nor a label of it is, nor one of another change; else the new one beside the cursor.
  drawChanges(size, cursor, labels) {
    const { sheet } = this
    const bottom = this.bottom - 5,
      top = this.top + size * 0.8
    const put = (text, left, base) => {
      const right = left + sheet.wide(text, size)
      if (left < this.left + 13 || right > this.left + this.plot - 1) return false
      if (cursor >= left - 4 && cursor <= right + 4) return false
      const lies = (one) =>
        one.right >= left - 4 && one.left <= right + 4 && one.base >= base - size && one.base - size <= base
      if (labels.some(lies)) return false
      sheet.text(text, left, base, { colour: "muted", halo: true })
      labels.push({ left, right, base })
      return true
    }
    let named = false // whether what comes before a change has its name already
    for (const { pass, before, after } of this.changes) {
      const x = this.x(pass)
      if (!named) put(title(before), x - 7 - sheet.wide(title(before), size), bottom)
      const beyond = cursor > x ? cursor : x
      const places = [x, beyond].flatMap((at) => [bottom, top].map((base) => [at + 7, base]))
      named = places.some((place) => put(title(after), ...place))
    }
  }

  // Gives where its labels stand: left, right and base of each.
  drawCursor(reached, furthest, size) {
    const { sheet, stage, theme } = this
    const c = sheet.context
    const x = this.x(furthest)
    sheet.line(x, this.top - 4, x, this.bottom, "ink", 2)
    const { promptEnd, passes } = stage.model
    if (promptEnd < passes && furthest < promptEnd) return [] // the curves are of what is written after it
    const { under } = stage.model.payload.phrases
    const told = (value) => `${percent(value)}${value < this.floor ? under : ""}`
    const labels = this.series.map((one, i) => ({
      text: `${stage.boards[i].run.about.name} ${told(one.recent[reached[i]])}`,
      under: one.recent[reached[i]] < this.floor,
      at: this.y(Math.max(one.recent[reached[i]], this.floor)),
      colour: i ? "b" : "a",
      x: this.x(reached[i]),
    }))
    for (const one of labels) {
      if (one.under) continue
      c.fillStyle = theme[`${one.colour}-mark`]
      c.beginPath()
      c.arc(one.x, one.at, 4.5, 0, 2 * Math.PI)
      c.fill()
    }
    if (this.bound) {
      const value = this.bound.recent[furthest]
      const guessed = stage.boards.some(({ run }) => run.about.prefetch !== "none")
      const { holds, rule, slots, slotsName } = stage.model.bound
      const others = stage.boards.some(({ run }) => !run.about.baseline && run.about.slots !== slots)
      const how = [rule, others && slotsName].filter(Boolean).join(", ")
      const name = stage.model.payload.phrases[!holds ? "no bound" : guessed ? "bound without" : "bound"]
      labels.push({
        text: `${name}${how && ` (${how})`} ${told(value)}`,
        at: this.y(Math.max(value, this.floor)),
        colour: "muted",
        x,
      })
    }
    if (this.plot < 420) {
      for (const one of labels)
        one.text = one.text.replace(/ \(.*\)|, [^%]*(?= \d)/, "").replace(under, " ↓")
    }
    const row = size * 1.25
    labels.sort((a, b) => a.at - b.at)
    const widest = Math.max(...labels.map((one) => sheet.wide(one.text, size, 700)))
    const right = x + 12 + widest < this.left + this.plot
    let y = this.top + size * 0.4
    for (const one of labels) {
      one.y = Math.max(y, one.at)
      y = one.y + row
    }
    let lowest = this.bottom - size * 0.4
    for (const one of labels.toReversed()) {
      one.y = Math.min(one.y, lowest)
      lowest = one.y - row
    }
    return labels.map((one) => {
      const options = { weight: 700, colour: one.colour, align: right ? "left" : "right", halo: true }
      const from = right ? x + 12 : x - 12
      const base = one.y + size * 0.36
      const wide = sheet.wide(one.text, size, 700)
      const left = right ? from : from - wide
      c.globalAlpha = 0.85 // where there is little room it stands on the curves
      c.fillStyle = theme.panel
      c.fillRect(left - 4, base - size * 0.95, wide + 8, row)
      c.globalAlpha = 1
      sheet.text(one.text, from, base, options)
      return { left, right: left + wide, base }
    })
  }

  describe() {
    const { boards, pass } = this.stage
    const parts = this.series.map((one, i) => `${boards[i].run.about.name} ${percent(one.recent[pass])}`)
    const { phrases } = this.stage.model.payload
    const name = `${phrases["hit ratio"]}, ${say(phrases.last, { n: WINDOW })}`
    this.canvas.setAttribute("aria-label", `${name}: ${parts.join(", ")}`)
  }

  passUnder(event) {
    return clamp(
      Math.round(this.first + ((event.offsetX - this.left) / this.plot) * (this.last - this.first)),
      this.first,
      this.last,
    )
  }
}

const percent = (ratio) => `${Math.round(100 * ratio)}%`
