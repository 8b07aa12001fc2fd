// Where the cells of a board stand: which way round, how large, how many of them pooled, which part of them
// in view.

// of states that are pooled: a miss hides a hit, a hit hides who is only there
const WORST = [0, 1, 3, 4, 5, 2]
const MIN_ROOM = 8 // px
const LEAST = 3.4 // px; cells that would be smaller are pooled

class Grid {
  fit(theme) {
    this.theme = theme
    this.sheet.fit(theme)
    const { layers, experts } = this.run.model
    const size = theme.size
    this.linkHeight = this.link.height(theme)
    const left =
      Math.ceil(
        Math.max(this.sheet.wide("expert", size), this.sheet.wide(String(Math.max(layers, experts)), size)),
      ) + 8
    // a stage that is not shown yet has no room; it is laid out again once it has
    const room = {
      width: Math.max(MIN_ROOM, this.sheet.width - left - 2),
      height: Math.max(MIN_ROOM, this.sheet.height - this.linkHeight - size - 12),
    }
    // layers run across unless cells come out squarer with the experts across
    const upright = Math.min(room.width / layers, room.height / experts)
    const lying = Math.min(room.width / experts, room.height / layers)
    this.across = lying > upright ? "expert" : "layer"
    this.columns = this.across === "layer" ? layers : experts
    this.rows = this.across === "layer" ? experts : layers
    this.left = left
    const view = this.stage.view ?? { x: 0, y: 0, zoom: 1 }
    const seenX = Math.min(this.columns, Math.max(4, Math.ceil(this.columns / view.zoom)))
    const seenY = Math.min(this.rows, Math.max(4, Math.ceil(this.rows / view.zoom)))
    this.x0 = clamp(Math.round(view.x * this.columns - seenX / 2), 0, this.columns - seenX)
    this.y0 = clamp(Math.round(view.y * this.rows - seenY / 2), 0, this.rows - seenY)
    // where a column is narrower than its name, the name takes a line of its own
    const names = this.across === "layer" ? ["layer", "expert"] : ["expert", "layer"]
    ;[this.columnName, this.rowName] = names
    this.ownLine = room.width / seenX < this.sheet.wide(`${this.columnName} 0`, size)
    if (this.ownLine) room.height = Math.max(MIN_ROOM, room.height - Math.ceil(size * 1.1))
    this.top = this.sheet.height - this.linkHeight - 2 - room.height
    this.room = room
    this.poolX = Math.ceil(seenX / Math.max(1, Math.floor(room.width / LEAST)))
    this.poolY = Math.ceil(seenY / Math.max(1, Math.floor(room.height / LEAST)))
    this.nx = Math.ceil(seenX / this.poolX)
    this.ny = Math.ceil(seenY / this.poolY)
    this.w = room.width / this.nx
    this.h = room.height / this.ny
    this.small = Math.min(this.w, this.h) < 7
    this.ground.like(this.sheet)
    this.painted = new Uint8Array(this.nx * this.ny) // of each cell what stands on the ground
    this.paintedLayer = NaN // none: all is to be painted
    this.sayView()
    this.shownAt = ""
  }

  sayView() {
    const { phrases } = this.run.model.payload
    const view = this.stage.view
    let text = ""
    if (this.poolX * this.poolY > 1) {
      const parts = []
      if (this.poolX > 1) parts.push(`${this.poolX} ${this.across}s`)
      if (this.poolY > 1) parts.push(`${this.poolY} ${this.across === "layer" ? "experts" : "layers"}`)
      text = say(phrases.pooled, { n: parts.join(" × ") })
    } else if (view && view.zoom > 1) {
      const x = [this.x0, this.x0 + this.nx - 1],
        y = [this.y0, this.y0 + this.ny - 1]
      const [layers, experts] = this.across === "layer" ? [x, y] : [y, x]
      text = say(phrases.zoomed, { a: layers[0], b: layers[1], c: experts[0], d: experts[1] })
    }
    this.stage.zoomable.hidden = !!text || !this.small
    this.note.textContent = text
    this.note.hidden = !text
  }

  cellAt(column, row) {
    const { experts } = this.run.model
    return this.across === "layer" ? column * experts + row : row * experts + column
  }

  // Middle of a cell on the canvas; null where it is out of view.
  place(cell) {
    const { experts } = this.run.model
    const layer = Math.floor(cell / experts),
      expert = cell % experts
    const [column, row] = this.across === "layer" ? [layer, expert] : [expert, layer]
    const x = Math.floor((column - this.x0) / this.poolX),
      y = Math.floor((row - this.y0) / this.poolY)
    if (x < 0 || y < 0 || x >= this.nx || y >= this.ny) return null
    return { x: this.left + (x + 0.5) * this.w, y: this.top + (y + 0.5) * this.h }
  }

  // States at the cursor, walked only when it moved.
  picture() {
    const { stage, run } = this
    const layer = stage.apart ? null : stage.layer
    const at = `${this.pass} ${layer}`
    if (this.shownAt === at) return
    this.shownAt = at
    if (layer === null) run.frame(this.pass, this.states)
    else run.moment(this.pass * run.model.layers + layer, this.states)
    this.crossing = run.clock.crossings(this.pass)
  }

  // The state that a place on the grid shows: of several cells the one that matters most.
  stateAt(x, y) {
    if (this.poolX * this.poolY === 1) return this.states[this.cellAt(this.x0 + x, this.y0 + y)]
    let worst = EMPTY
    const right = Math.min(this.x0 + (x + 1) * this.poolX, this.columns),
      bottom = Math.min(this.y0 + (y + 1) * this.poolY, this.rows)
    for (let column = this.x0 + x * this.poolX; column < right; column++) {
      for (let row = this.y0 + y * this.poolY; row < bottom; row++) {
        const state = this.states[this.cellAt(column, row)]
        if (WORST[state] > WORST[worst]) worst = state
      }
    }
    return worst
  }

  fraction(event) {
    return {
      x: (this.x0 + ((event.offsetX - this.left) / this.w) * this.poolX) / this.columns,
      y: (this.y0 + ((event.offsetY - this.top) / this.h) * this.poolY) / this.rows,
    }
  }

  under(event) {
    const x = Math.floor((event.offsetX - this.left) / this.w),
      y = Math.floor((event.offsetY - this.top) / this.h)
    if (x < 0 || y < 0 || x >= this.nx || y >= this.ny) return null
    let column = this.x0 + x * this.poolX,
      row = this.y0 + y * this.poolY
    if (this.poolX * this.poolY > 1) [column, row] = this.worstIn(x, y)
    return this.across === "layer" ? { layer: column, expert: row } : { layer: row, expert: column }
  }

  worstIn(x, y) {
    let found = [this.x0 + x * this.poolX, this.y0 + y * this.poolY]
    const right = Math.min(found[0] + this.poolX, this.columns),
      bottom = Math.min(found[1] + this.poolY, this.rows)
    for (let column = found[0]; column < right; column++) {
      for (let row = this.y0 + y * this.poolY; row < bottom; row++) {
        if (WORST[this.states[this.cellAt(column, row)]] > WORST[this.states[this.cellAt(...found)]])
          found = [column, row]
      }
    }
    return found
  }

  hint({ layer, expert }) {
    const { payload, experts } = this.run.model
    const words = {
      [RESIDENT]: "resident",
      [HIT]: "hit",
      [LATE]: "late",
      [MISS]: "miss",
      [PREFETCHED]: "prefetched",
    }
    const state = words[this.states[layer * experts + expert]]
    return `layer ${layer}, expert ${expert}${state ? `: ${payload.legend[state]}` : ""}`
  }
}
