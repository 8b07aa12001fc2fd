// Draws the cells of a board: states with glyphs, what is on its way, what differs, what is selected.

const GLYPHS = { [HIT]: "●", [LATE]: "◐", [MISS]: "✕", [PREFETCHED]: "▸" }
const FILLS = {
  [RESIDENT]: "resident-fill",
  [HIT]: "hit",
  [LATE]: "late",
  [MISS]: "miss",
  [PREFETCHED]: "ahead-fill",
}
const OUTLINES = {
  [EMPTY]: "line",
  [RESIDENT]: "resident",
  [HIT]: "resident",
  [LATE]: "late",
  [MISS]: "miss",
  [PREFETCHED]: "ahead",
}

class Cells extends Grid {
  axes(sheet) {
    const { theme } = this
    const size = theme.size
    const everyX = Math.ceil((sheet.wide("000", size) + 6) / (this.w / this.poolX)),
      everyY = Math.ceil((size * 1.15) / (this.h / this.poolY))
    const now = this.stage.layer
    const base = this.top - 9
    if (this.ownLine) sheet.text(`${this.columnName}s`, this.left + 2, base - size * 1.1, { colour: "muted" })
    for (
      let column = this.x0;
      column < this.x0 + this.nx * this.poolX && column < this.columns;
      column += everyX
    ) {
      const label = column === this.x0 && !this.ownLine ? `${this.columnName} ${column}` : String(column)
      const x = this.left + ((column - this.x0 + 0.5) / this.poolX) * this.w
      const bold = this.across === "layer" && column === now
      sheet.text(label, Math.min(x, sheet.width - sheet.wide(label, size) / 2), base, {
        align: "center",
        colour: bold ? "ink" : "muted",
        weight: bold ? 700 : 400,
      })
    }
    sheet.text(this.rowName, 0, base, { colour: "muted" })
    for (let row = this.y0; row < this.y0 + this.ny * this.poolY && row < this.rows; row += everyY) {
      const y = this.top + ((row - this.y0) / this.poolY + 0.5 / this.poolY) * this.h
      const bold = this.across === "expert" && row === now
      sheet.text(String(row), this.left - 8, y + size * 0.36, {
        align: "right",
        colour: bold ? "ink" : "muted",
        weight: bold ? 700 : 400,
      })
    }
  }

  // How far a missing expert has come while its pass is played: 0 to 1.
  arrived(cell) {
    if (this.t >= 1 || this.stage.still) return 1
    const one = this.crossing.get(cell)
    return one ? clamp((this.t - one.start) / Math.max(one.end - one.start, 1e-6), 0, 1) : 1
  }

  // Most cells look from one picture to the next as they did: they are painted on the ground, a sheet of
  // their own, when they change, and only experts that are on their way into theirs on every picture.
  drawCells() {
    const coming = this.paint()
    this.sheet.cover(this.ground)
    for (const [x, y, part] of coming) this.drawCell(this.sheet, x, y, MISS, part, this.differs(x, y))
  }

  // Brings the ground up to date; gives the cells that are left out, as they have not come yet: column, row,
  // and how far they have.
  paint() {
    const { ground, painted, nx, ny } = this
    const coming = []
    if (ground.ratio < 1) painted.fill(0)
    if (this.paintedLayer !== this.stage.layer || ground.ratio < 1) {
      this.paintedLayer = this.stage.layer
      ground.clear(ground.width, ground.ratio < 1 ? ground.height : this.top)
      ground.clear(this.left, ground.height)
      this.axes(ground)
    }
    if (this.small) return coming
    this.stage.boards[1 - this.number]?.picture()
    for (let y = 0; y < ny; y++) {
      for (let x = 0; x < nx; x++) {
        const state = this.stateAt(x, y)
        const part = state === MISS ? this.arrived(this.cellAt(this.x0 + x, this.y0 + y)) : 1
        if (part < 1) coming.push([x, y, part])
        const differs = this.differs(x, y)
        const now = part < 1 ? 0 : 1 + state + (differs ? 8 : 0) // 0: nothing stands there
        const before = painted[y * nx + x]
        if (before === now) continue
        painted[y * nx + x] = now
        if (before) this.wipe(x, y)
        if (now) this.drawCell(ground, x, y, state, 1, differs)
      }
    }
    return coming
  }

  // Room between cells, and how thick their outlines are.
  get gap() {
    return Math.min(this.w, this.h) > 16 ? 2 : 1
  }

  get outline() {
    return Math.min(this.w, this.h) - 2 * this.gap > 14 ? 2 : 1
  }

  // Takes a cell off the ground, in whole pixels, since half of one leaves a trace. Where a pixel of the
  // screen is larger than one of the page this takes some of its neighbours too, and the whole ground is
  // painted anew.
  wipe(x, y) {
    const { context, ratio } = this.ground
    const beside = this.gap - this.outline / 2
    const left = Math.floor((this.left + x * this.w + beside) * ratio) / ratio,
      top = Math.floor((this.top + y * this.h + beside) * ratio) / ratio
    const right = Math.ceil((this.left + (x + 1) * this.w - beside) * ratio) / ratio,
      bottom = Math.ceil((this.top + (y + 1) * this.h - beside) * ratio) / ratio
    context.clearRect(left, top, right - left, bottom - top)
  }

  // `part`: how far a missing expert has come; `differs`: whether it gets a dark corner.
  drawCell(sheet, x, y, state, part, differs) {
    const { theme, gap, outline } = this
    const c = sheet.context
    const w = this.w - 2 * gap,
      h = this.h - 2 * gap
    const least = Math.min(w, h)
    const left = this.left + x * this.w + gap,
      top = this.top + y * this.h + gap
    c.beginPath()
    c.roundRect(left, top, w, h, Math.min(5, w / 4, h / 4))
    c.lineWidth = state === EMPTY ? 1 : outline
    if (part < 1) {
      c.fillStyle = theme.paper
      c.fill()
      c.save()
      c.clip()
      c.fillStyle = theme.miss
      c.fillRect(left, top + h * (1 - part), w, h * part)
      c.restore()
    } else {
      c.fillStyle = theme[state === EMPTY ? "paper" : FILLS[state]]
      c.fill()
    }
    c.strokeStyle = theme[OUTLINES[state]]
    c.stroke()
    if (least >= 4.5 && GLYPHS[state]) {
      const share = least < 14 ? 0.9 : 0.62 // of a low cell it takes more
      const size = Math.min(least * share, theme.size * 1.6)
      const colour = state === PREFETCHED ? "ahead" : part < 0.6 ? "miss" : "glyph"
      this.glyph(c, state, this.left + (x + 0.5) * this.w, this.top + (y + 0.5) * this.h, size, colour)
    }
    if (!differs) return
    const side = least * (least > 14 ? 0.3 : 0.45)
    c.fillStyle = theme.ink
    c.beginPath()
    c.moveTo(left + w - side, top)
    c.lineTo(left + w, top)
    c.lineTo(left + w, top + side)
    c.fill()
  }

  // Drawn, not written: fonts differ in where they put these signs.
  glyph(c, state, x, y, size, colour) {
    const r = size * 0.36
    c.fillStyle = c.strokeStyle = this.theme[colour]
    c.lineWidth = Math.max(Math.min(1.5, size * 0.25), size * 0.15)
    c.lineCap = "round"
    c.beginPath()
    if (state === HIT) {
      c.arc(x, y, r * 0.8, 0, 2 * Math.PI)
      c.fill()
    } else if (state === MISS) {
      c.moveTo(x - r * 0.75, y - r * 0.75)
      c.lineTo(x + r * 0.75, y + r * 0.75)
      c.moveTo(x + r * 0.75, y - r * 0.75)
      c.lineTo(x - r * 0.75, y + r * 0.75)
      c.stroke()
    } else if (state === LATE) {
      c.arc(x, y, r * 0.85, 0, 2 * Math.PI)
      c.stroke()
      c.beginPath()
      c.arc(x, y, r * 0.85, Math.PI / 2, (3 * Math.PI) / 2)
      c.fill()
    } else {
      c.moveTo(x - r * 0.6, y - r * 0.8)
      c.lineTo(x + r * 0.8, y)
      c.lineTo(x - r * 0.6, y + r * 0.8)
      c.fill()
    }
    c.lineCap = "butt"
  }

  // Whether one board finds an expert there that the other does not.
  differs(x, y) {
    const other = this.stage.boards[1 - this.number]
    if (!other || this.stage.apart || this.poolX * this.poolY > 1) return false
    const cell = this.cellAt(this.x0 + x, this.y0 + y)
    return differ(this.states[cell], other.states[cell])
  }

  // Cells too small for outlines: a picture of one pixel a cell, enlarged.
  drawSmall() {
    const { theme, nx, ny } = this
    if (!this.tiny || this.tiny.width !== nx || this.tiny.height !== ny) {
      this.tiny = element("canvas")
      this.tiny.width = nx
      this.tiny.height = ny
      this.tinyContext = this.tiny.getContext("2d")
      this.tinyImage = this.tinyContext.createImageData(nx, ny)
      this.tinyBits = new Uint32Array(this.tinyImage.data.buffer)
    }
    const bits = [theme.bits.paper, 0, 0, 0, 0, 0]
    for (const state of [RESIDENT, HIT, LATE, MISS, PREFETCHED]) bits[state] = theme.bits[FILLS[state]]
    bits[PREFETCHED] = theme.bits.ahead
    for (let y = 0; y < ny; y++)
      for (let x = 0; x < nx; x++) this.tinyBits[y * nx + x] = bits[this.stateAt(x, y)]
    this.tinyContext.putImageData(this.tinyImage, 0, 0)
    const c = this.sheet.context
    c.imageSmoothingEnabled = false
    c.drawImage(this.tiny, this.left, this.top, this.room.width, this.room.height)
    c.strokeStyle = theme.line
    c.lineWidth = 1
    c.strokeRect(this.left - 0.5, this.top - 0.5, this.room.width + 1, this.room.height + 1)
  }

  // The selected expert, who leaves and who comes for it, and an arrow from one to the other.
  drawSelected() {
    const { stage } = this
    const facts = stage.facts && stage.selected.board === this.number ? stage.facts : null
    if (!stage.selected || stage.playing) return
    const { experts } = this.run.model
    this.frame(stage.selected.layer * experts + stage.selected.expert, "ink", facts ? 3.5 : 1.5, [])
    if (!facts || facts.victim < 0) return
    const from = this.place(facts.newcomer),
      to = this.place(facts.victim)
    this.frame(facts.victim, "victim", 3, [5, 3])
    if (facts.newcomer !== facts.cell) this.frame(facts.newcomer, "victim", 2, [])
    if (!from || !to || this.small) return
    const c = this.sheet.context
    const bend = this.across === "layer" ? { x: -this.w * 0.62, y: 0 } : { x: 0, y: -this.h * 0.62 }
    const start = { x: from.x + bend.x * 0.5, y: from.y + bend.y * 0.5 },
      end = { x: to.x + bend.x * 0.5, y: to.y + bend.y * 0.5 }
    c.strokeStyle = c.fillStyle = this.theme.victim
    c.lineWidth = 2
    c.beginPath()
    c.moveTo(start.x, start.y)
    c.quadraticCurveTo(
      (start.x + end.x) / 2 + bend.x * 0.5,
      (start.y + end.y) / 2 + bend.y * 0.5,
      end.x,
      end.y,
    )
    c.stroke()
    const angle = Math.atan2(end.y - start.y, end.x - start.x)
    c.beginPath()
    c.moveTo(end.x, end.y)
    c.lineTo(end.x - 9 * Math.cos(angle - 0.45), end.y - 9 * Math.sin(angle - 0.45))
    c.lineTo(end.x - 9 * Math.cos(angle + 0.45), end.y - 9 * Math.sin(angle + 0.45))
    c.fill()
  }

  frame(cell, colour, width, dash) {
    const at = this.place(cell)
    if (!at) return
    const c = this.sheet.context
    const w = Math.max(this.w, 6),
      h = Math.max(this.h, 6)
    for (const [stroke, wide, pattern] of [
      ["panel", width + 2.5, []],
      [colour, width, dash],
    ]) {
      c.strokeStyle = this.theme[stroke]
      c.lineWidth = wide
      c.setLineDash(pattern)
      c.beginPath()
      c.roundRect(at.x - w / 2 + 0.5, at.y - h / 2 + 0.5, w - 1, h - 1, Math.min(6, w / 4))
      c.stroke()
    }
    c.setLineDash([])
  }
}

const needed = (state) => state === HIT || state === LATE || state === MISS
const differ = (mine, theirs) => needed(mine) && needed(theirs) && (mine === MISS) !== (theirs === MISS)
