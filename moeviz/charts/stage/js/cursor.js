// Where the stage stands: the pass, in slow motion the layer, what is selected, which part of the boards is
// in view; and every way to move them.

class Cursor {
  go(pass) {
    this.stop()
    this.pass = placed(pass, this.model.passes - 1, this.pass)
    this.layer = null
    this.settle()
    this.tell()
  }

  // Where the host wants the cursor; the same wish twice is one wish. One that follows a text which grows is
  // none while the cursor does not stand at its end.
  seekTo(wish) {
    const said = JSON.stringify(wish ?? null)
    if (this.wished === said) return
    this.wished = said
    if (!wish || (wish.follows && !this.atEnd)) return
    this.stop()
    const { layers, experts, passes } = this.model
    this.pass = placed(wish.step, passes - 1, this.pass)
    this.layer = placed(wish.slow, layers - 1, null)
    const layer = placed(wish.layer, layers - 1, null)
    if (layer !== null) {
      this.selected = { board: placed(wish.board, this.boards.length - 1, 0), layer, kept: true }
      // of its layer, where no expert was named, the one that is worth telling
      const worth = () => this.worthTelling(this.pass * layers + layer)
      this.selected.expert = placed(wish.expert, experts - 1, null) ?? worth()
    } else if (this.layer !== null) this.lookAtLayer()
    if (wish.speed) this.transport.setSpeed(wish.speed)
    this.settle()
    if (wish.play > 0) {
      this.toggle()
      this.pace = wish.play // tokens a second, until it stops
    }
  }

  step(by) {
    this.go(this.pass + by)
  }

  stepLayer(by) {
    this.stop()
    const { layers, passes } = this.model
    const event =
      this.layer === null
        ? this.pass * layers + (by > 0 ? 0 : layers - 1)
        : this.pass * layers + this.layer + by
    if (event < 0 || event >= passes * layers) return
    this.pass = Math.floor(event / layers)
    this.layer = event % layers
    this.lookAtLayer()
    this.settle()
    this.tell()
  }

  // In slow motion: selects of the layer that is looked at the expert that is worth telling.
  lookAtLayer() {
    this.selected = {
      board: this.asked,
      layer: this.layer,
      expert: this.worthTelling(this.pass * this.model.layers + this.layer),
      kept: false,
    }
  }

  // Of an event's experts the first that missed on the board that is looked at, else the first.
  worthTelling(event) {
    const run = this.boards[this.asked].run
    const { needAt, need } = this.model
    for (let i = needAt[event]; i < needAt[event + 1]; i++) if (run.outcome[i] === MISS) return need[i]
    return need[needAt[event]] ?? 0
  }

  stepExpert(by) {
    if (!this.selected) return
    const expert = clamp(this.selected.expert + by, 0, this.model.experts - 1)
    this.select({ ...this.selected, expert, kept: true })
  }

  otherBoard() {
    if (this.boards.length < 2) return
    this.select({ ...this.selected, board: 1 - this.selected.board })
  }

  select(selected) {
    this.stop()
    this.selected = selected
    this.settle()
    this.tell()
  }

  letGo() {
    if (!this.helpBox.hidden) return this.help()
    this.layer = null
    if (this.selected) this.selected.kept = false
    this.go(this.pass)
  }

  // The board that is looked at.
  get asked() {
    return this.selected?.board ?? this.boards.length - 1
  }

  jump(kind, by) {
    this.stop()
    const board = this.asked
    const marks = kind === "difference" ? this.differing : this.boards[board].run.marks(kind)
    const { layers, experts } = this.model
    const here =
      this.jumped?.kind === kind && this.jumped.pass === this.pass
        ? this.jumped.mark
        : this.pass * layers * experts + (by > 0 ? -1 : layers * experts)
    let at = above(marks, here)
    if (by < 0) at = above(marks, here - 1) - 1
    if (!marks.length) return
    // After the last comes the first, as Play begins anew at the end; the transport says so.
    const round = at < 0 ? "last" : at < marks.length ? "" : "first"
    const mark = marks[(at + marks.length) % marks.length]
    const event = Math.floor(mark / experts)
    this.pass = Math.floor(event / layers)
    this.jumped = { kind, mark, pass: this.pass, round }
    if (this.layer !== null) this.layer = event % layers
    const brought =
      kind === "eviction" || kind === "regret" ? this.newcomer(board, event, mark % experts) : null
    this.selected = {
      board,
      layer: event % layers,
      expert: mark % experts,
      kept: false,
      fixed: true,
      ...brought,
    }
    this.settle()
    this.tell()
  }

  // A guess brings an expert of a later layer: the story is told where that expert is.
  newcomer(board, event, expert) {
    const run = this.boards[board].run
    const { experts } = this.model
    for (let i = run.loadAt[event]; i < run.loadAt[event + 1]; i++) {
      if (run.came[i] % experts === expert) return { layer: Math.floor(run.came[i] / experts), expert, event }
    }
    return null
  }

  // After every change of the cursor: what is selected, and what there is to say of it.
  settle() {
    const { layers } = this.model
    if (!this.apart) for (const board of this.boards) Object.assign(board, { pass: this.pass, t: 1 })
    if (this.selected && this.selected.board >= this.boards.length) this.selected = null
    if (!this.selected?.kept && !this.selected?.fixed && this.layer === null)
      this.selected = this.firstWorth()
    if (this.selected) {
      this.selected = { ...this.selected, fixed: false }
      const event = this.selected.event ?? this.pass * layers + this.selected.layer
      delete this.selected.event
      this.facts = factsOf(this.boards[this.selected.board].run, event, this.selected.expert)
      for (const board of this.boards) board.shownAt = "" // the walk of the board that was asked has moved
      this.seek()
    } else this.facts = null
    this.dirty = true
  }

  // Without a choice of the user's: the first expert that one board has and the other has not, else the first
  // miss.
  firstWorth() {
    const { needAt, need, layers } = this.model
    const board = this.asked
    const mine = this.boards[board].run.outcome,
      theirs = this.boards[1 - board]?.run.outcome ?? mine
    let found = null
    for (let i = needAt[this.pass * layers]; i < needAt[(this.pass + 1) * layers]; i++) {
      if (mine[i] !== MISS) continue
      if (theirs[i] !== MISS) return this.worth(board, i)
      found ??= i
    }
    if (found === null) found = needAt[this.pass * layers]
    return found < need.length ? this.worth(board, found) : null
  }

  worth(board, access) {
    return {
      board,
      layer: this.model.eventOf[access] % this.model.layers,
      expert: this.model.need[access],
      kept: false,
    }
  }

  zoom(by, around = { x: 0.5, y: 0.5 }) {
    const old = this.view ?? { x: 0.5, y: 0.5, zoom: 1 }
    const zoom = clamp(old.zoom * by, 1, Math.max(this.model.layers, this.model.experts) / 4)
    const keep = old.zoom / zoom
    this.look(
      zoom <= 1.01
        ? null
        : { zoom, x: around.x + (old.x - around.x) * keep, y: around.y + (old.y - around.y) * keep },
    )
  }

  // A selection outside of a zoomed view brings the view to it.
  seek() {
    const board = this.boards[this.selected.board]
    if (!this.view || !this.theme || board.place(this.facts.cell)) return
    const { layer, expert } = this.selected
    const { layers, experts } = this.model
    const at = { layer: (layer + 0.5) / layers, expert: (expert + 0.5) / experts }
    this.look({
      zoom: this.view.zoom,
      x: at[board.across],
      y: at[board.across === "layer" ? "expert" : "layer"],
    })
  }

  look(view) {
    const room = view ? 0.5 / view.zoom : 0
    this.view = view && {
      zoom: view.zoom,
      x: clamp(view.x, room, 1 - room),
      y: clamp(view.y, room, 1 - room),
    }
    for (const board of this.boards) board.fit(this.theme)
    this.dirty = true
  }
}
