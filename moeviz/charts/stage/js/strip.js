// The text: a few lines of it around the cursor, each token's misses under it, and a thin band over the whole
// of it.

const VISIBLE = { "\n": "⏎", "\t": "⇥" }

class Strip {
  constructor(stage) {
    this.stage = stage
    this.root = element("div", "strip")
    this.canvas = element("canvas", "text")
    this.band = element("canvas", "band")
    this.root.append(this.canvas, this.band)
    this.sheet = new Sheet(this.canvas)
    this.bandSheet = new Sheet(this.band)
    for (const [canvas, at] of [
      [this.canvas, "tokenUnder"],
      [this.band, "passUnder"],
    ]) {
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId)
        this.stage.go(this[at](event))
      })
      canvas.addEventListener("pointermove", (event) => event.buttons && this.stage.go(this[at](event)))
    }
    this.root.tabIndex = 0
    this.root.setAttribute("role", "slider")
    this.root.setAttribute("aria-label", "token")
    this.root.setAttribute("aria-valuemin", "0")
  }

  // How many lines there is room for; the style sheet turns them into a height.
  fit(theme, lines) {
    this.theme = theme
    this.size = Math.round(theme.size * 1.08)
    this.row = Math.round(this.size * 1.32 + 11)
    this.canvas.style.height = `${this.row * lines + 6}px`
    this.band.style.height = `${Math.round(theme.size * 1.45) + 12}px`
    this.lines = lines
    this.sheet.fit(theme)
    this.bandSheet.fit(theme)
    this.wrap()
  }

  // Lays all tokens out in lines, breaking between words where it can.
  wrap() {
    const model = this.stage.model
    const key = `${model.payload.id} ${this.sheet.width} ${this.size}`
    if (this.wrapped === key) return
    this.wrapped = key
    const bare = !model.texts.some(Boolean) // then the tokens' numbers, as on the other pages
    const shown = model.texts.map((text, token) =>
      bare
        ? `\u2009${token}\u2009` // room on both sides: what frames one leaves its neighbours free
        : text.replace(/[\n\t]/g, (char) => VISIBLE[char]).replace(/ {3,}/g, "  ") || "·",
    )
    const c = this.sheet.context
    c.font = `400 ${this.size}px ${this.theme.font}`
    const room = this.sheet.width - 20
    this.places = new Array(shown.length) // of each token: line, x, width, text
    let x = 0,
      line = 0,
      word = 0 // the first token of the word that is being written
    const widths = new Map()
    for (let token = 0; token < shown.length; token++) {
      const text = shown[token]
      if (!widths.has(text)) widths.set(text, c.measureText(text).width)
      const width = Math.min(widths.get(text), room)
      if (/^[\s⏎⇥]/.test(text)) word = token
      if (x + width > room && x > 0) {
        const from = word > 0 && this.places[word]?.line === line && this.places[word].x > 0 ? word : token
        line++
        x = 0
        for (let moved = from; moved < token; moved++) {
          this.places[moved] = { ...this.places[moved], line, x }
          x += this.places[moved].width
        }
        word = token
      }
      this.places[token] = { line, x, width, text }
      x += width
    }
    this.lineCount = line + 1
  }

  draw() {
    const { stage, sheet, theme } = this
    const { model } = stage
    sheet.clear()
    const c = sheet.context
    const first = model.tokenAt[stage.pass],
      last = model.tokenAt[stage.pass + 1] - 1
    const top = clamp(
      this.places[last].line - (this.lines > 2 ? 1 : 0),
      0,
      Math.max(0, this.lineCount - this.lines),
    )
    this.top = top
    const runs = stage.boards.map((board) => board.run)
    const reached = stage.boards.map((board) => board.pass)
    const from = this.firstOf(top),
      to = this.firstOf(top + this.lines)
    const change = new Set(model.changes.map((one) => model.tokenAt[one.pass]))
    for (let token = from; token < to; token++) {
      const { line, x, width, text } = this.places[token]
      const left = 10 + x,
        base = (line - top) * this.row + this.size + 5
      const pass = model.passOf(token)
      if (token >= first && token <= last) {
        c.fillStyle = theme["resident-fill"]
        c.fillRect(left - 1, base - this.size, width + 2, this.size * 1.3)
      }
      const now = pass === stage.pass
      sheet.text(text, left, base, {
        size: this.size,
        weight: 400,
        colour: pass > Math.max(...reached) ? "muted" : "ink",
      })
      if (now && pass >= model.promptEnd) {
        c.strokeStyle = theme.ink
        c.lineWidth = 2
        c.strokeRect(left - 2, base - this.size, width + 4, this.size * 1.3)
      }
      runs.forEach((run, i) => {
        if (pass > reached[i] || !run.misses[pass]) return
        const share = run.misses[pass] / model.needed[pass]
        c.fillStyle = theme[i ? "b-mark" : "a-mark"]
        const high = Math.max(1.5, 7 * Math.min(1, share * 1.6))
        const half = (width - 2) / runs.length
        c.fillRect(left + 1 + i * half, base + this.size * 0.34, Math.max(half - 1, 1), high)
      })
      if (token && token === model.tokenAt[model.promptEnd])
        sheet.line(left - 1, base - this.size, left - 1, base + 8, "muted", 2)
      if (change.has(token)) sheet.line(left - 1, base - this.size, left - 1, base + 8, "ink", 2, [3, 2])
    }
    this.drawBand()
    const token = `${model.nameOf(stage.pass)}: ${this.places[last].text.trim() || "space"}`
    this.root.setAttribute("aria-valuemax", model.passes - 1)
    this.root.setAttribute("aria-valuenow", stage.pass)
    this.root.setAttribute("aria-valuetext", token)
  }

  firstOf(line) {
    let from = 0,
      to = this.places.length
    while (from < to) {
      const middle = (from + to) >> 1
      if (this.places[middle].line >= line) to = middle
      else from = middle + 1
    }
    return from
  }

  // The whole text as one bar: the nearest domain of each token, or without domains how many experts missed
  // on each board.
  drawBand() {
    const { stage, theme, bandSheet: sheet } = this
    const { model } = stage
    sheet.clear()
    const c = sheet.context
    const width = sheet.width,
      high = 9
    const x = (pass) => (width * pass) / model.passes
    const runs = stage.boards.map((board) => board.run.about.id)
    const key = [model.payload.id, width, theme.panel, ...runs].join()
    if (this.barOf !== key) {
      this.barOf = key
      this.bar = this.wholeBar(width, high)
    }
    c.drawImage(this.bar, 0, 0)
    const reached = x(Math.max(...stage.boards.map((board) => board.pass)) + 1)
    c.globalAlpha = 0.62
    c.fillStyle = theme.paper
    c.fillRect(reached, 0, width - reached, high)
    c.globalAlpha = 1
    const size = theme.size,
      base = high + size + 4
    const { phrases } = model.payload
    let wordings = [phrases.density, phrases["density short"]]
    this.band.title = phrases.density
    if (model.domains) {
      const name = model.domains.names[model.domains.nearest[model.tokenAt[stage.pass + 1] - 1]]
      const n = model.domains.around
      wordings = [phrases.domain, phrases["domain short"]].map((phrase) => say(phrase, { name, n }))
      this.band.title = say(phrases["domain why"], { n })
    }
    // the short one where the long one would take the place of the first change's name
    const room = model.changes.length ? x(model.changes[0].pass) - 20 : width
    const within = (most) => wordings.find((text) => sheet.wide(text, size) < most)
    const said = within(room) ?? within(width) ?? wordings[1]
    sheet.text(said, 0, base, { colour: "muted", room: width })
    let taken = sheet.wide(said, size) + 16
    if (model.promptEnd && model.promptEnd < model.passes) this.mark(x(model.promptEnd), "muted", 1.5)
    for (const one of model.changes) {
      this.mark(x(one.pass), "ink", 2)
      const after = title(one.after)
      const left = x(one.pass) - 4
      if (left > taken && left + sheet.wide(after, size) < width) {
        sheet.text(after, left, base, { colour: "muted" })
        taken = left + sheet.wide(after, size) + 12
      }
    }
    stage.boards.forEach((board, i) => {
      c.fillStyle = theme.ink
      const at = x(board.pass + board.t)
      c.fillRect(clamp(at - 2, 0, width - 4), -1 + 0, 4, high + 4)
      if (stage.apart) {
        c.fillStyle = theme[i ? "b-mark" : "a-mark"]
        c.fillRect(clamp(at - 2, 0, width - 4), 0, 4, high + 4)
      }
    })
  }

  wholeBar(width, high) {
    const { stage, theme } = this
    const { model } = stage
    const bar = element("canvas")
    bar.width = Math.max(1, width)
    bar.height = high
    const c = bar.getContext("2d")
    const names = model.domains ? [...new Set(model.domains.nearest)] : []
    for (let px = 0; px < width; px++) {
      const from = Math.min(model.passes - 1, Math.floor((px / width) * model.passes))
      const to = Math.max(from + 1, Math.floor(((px + 1) / width) * model.passes))
      if (model.domains) {
        c.fillStyle =
          DOMAINS[names.indexOf(model.domains.nearest[model.tokenAt[from + 1] - 1]) % DOMAINS.length]
        c.fillRect(px, 0, 1, high)
        continue
      }
      stage.boards.forEach((board, i) => {
        let misses = 0,
          needs = 0
        for (let pass = from; pass < to; pass++) {
          misses += board.run.misses[pass]
          needs += model.needed[pass]
        }
        c.globalAlpha = Math.min(1, 0.08 + (1.8 * misses) / (needs || 1))
        c.fillStyle = theme[i ? "b-mark" : "a-mark"]
        c.fillRect(px, (i * high) / stage.boards.length, 1, high / stage.boards.length)
      })
    }
    return bar
  }

  mark(x, colour, width) {
    this.bandSheet.line(x, 0, x, 14, "paper", width + 2)
    this.bandSheet.line(x, 0, x, 14, colour, width)
  }

  tokenUnder(event) {
    const line = this.top + Math.floor((event.offsetY - 3) / this.row)
    const from = this.firstOf(line),
      to = this.firstOf(line + 1)
    let token = clamp(from, 0, this.places.length - 1)
    for (let i = from; i < to; i++) if (this.places[i].x <= event.offsetX - 10) token = i
    return this.stage.model.passOf(token)
  }

  passUnder(event) {
    const { passes } = this.stage.model
    return clamp(Math.floor((event.offsetX / this.bandSheet.width) * passes), 0, passes - 1)
  }
}

// Of Okabe and Ito, those that mean no state of an expert on the boards come first.
const DOMAINS = ["#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#E69F00", "#999999"]

const title = (name) => name.charAt(0).toUpperCase() + name.slice(1)
