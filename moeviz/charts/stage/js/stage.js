// The stage: puts the parts together, keeps the cursor and the selection, plays, and tells its host what its user did.
// host: { emit(event), whole: the page is the stage's own, future: false hides the curves after the cursor, presenter: true }

const RACE = 30 // seconds

class Stage {
  constructor(root, payload, host = {}) {
    this.root = element("div", "moeviz-stage")
    root.append(this.root)
    this.outer = root
    this.host = host
    this.pass = 0
    this.layer = null // in slow motion: the layer that is looked at
    this.selected = null // { board, layer, expert, kept }
    this.playing = false
    this.apart = false // each board at its own time
    this.speed = "4"
    this.view = null // { x, y, zoom }; null shows all
    this.presenter = Boolean(host.presenter) || root.dataset?.presenter !== undefined
    this.motion = matchMedia("(prefers-reduced-motion: reduce)")
    this.pictures = 0
    this.build()
    this.update(payload)
    this.closers = [listen(this)]
    this.watch()
    this.tick = this.tick.bind(this)
    this.request = requestAnimationFrame(this.tick)
  }

  get still() {
    return this.motion.matches
  }

  build() {
    this.title = element("h1", "title")
    this.verdict = element("p", "verdict")
    this.strip = new Strip(this)
    this.boards = []
    this.pair = element("div", "pair")
    this.legend = element("div", "legend")
    this.curves = new Curves(this)
    this.story = new Story(this)
    this.transport = new Transport(this)
    this.live = element("div", "live")
    this.live.setAttribute("aria-live", "polite")
    this.helpBox = element("div", "help")
    this.helpBox.hidden = true
    this.side = this.story.root
    const main = element("div", "main")
    main.append(this.strip.root, this.pair, this.legend, this.curves.root)
    const head = element("header")
    head.append(this.title, this.verdict)
    this.root.append(head, main, this.side, this.transport.root, this.live, this.helpBox)
  }

  // Takes a payload; what is at hand stays: cursor, selection, view and speed, as far as they still fit.
  update(payload, host) {
    if (host) this.host = { ...this.host, ...host }
    if (this.model?.payload === payload) return
    const told = (one) => (one ? `${one.id} ${one.runs.every((run) => run.story)} ${JSON.stringify([one.title, one.verdict, one.actions, one.menus])}` : "")
    if (told(this.model?.payload) === told(payload)) return
    const same = this.model?.payload.trace === payload.trace
    this.model = new Model(payload)
    if (!same) {
      this.pass = payload.at ?? Math.min(this.model.passes - 1, this.model.promptEnd)
      this.layer = this.selected = this.view = null
    }
    this.pass = clamp(this.pass, 0, this.model.passes - 1)
    this.title.textContent = payload.title
    this.verdict.textContent = payload.verdict
    this.show(this.model.runs.slice(0, 2))
  }

  // Puts runs on the boards.
  show(runs) {
    while (this.boards.length > runs.length) this.boards.pop().root.remove()
    while (this.boards.length < runs.length) {
      const board = new Board(this, this.boards.length)
      this.boards.push(board)
      this.sizes?.observe(board.canvas)
      this.pair.append(board.root)
    }
    runs.forEach((run, i) => this.boards[i].take(run))
    this.differing = runs.length > 1 ? differences(runs[0], runs[1]) : new Float64Array(0)
    this.root.classList.toggle("single", runs.length < 2)
    this.curves.take()
    this.transport.take()
    this.settle()
    this.drawLegend()
    this.layout()
  }

  drawLegend() {
    const { legend } = this.model.payload
    const any = (test) => this.boards.some((board) => test(board.run))
    const shown = {
      resident: true, hit: true, late: any((run) => run.late.some((n) => n)), miss: true,
      prefetched: any((run) => run.guess), differs: this.boards.length > 1,
    }
    const items = Object.entries(legend).filter(([name]) => shown[name])
    this.legend.replaceChildren(...items.map(([name, text]) => {
      const item = element("span")
      item.append(element("i", name), text)
      return item
    }))
  }

  // layout

  watch() {
    const again = () => {
      if (this.width === this.outer.clientWidth && this.tall === window.innerHeight) return
      this.layout()
    }
    const observer = new ResizeObserver(again)
    observer.observe(this.outer.host ?? this.outer)
    this.sizes = new ResizeObserver(() => (this.resized = true)) // of canvases, whatever pushed them
    for (const canvas of this.root.querySelectorAll("canvas")) this.sizes.observe(canvas)
    window.addEventListener("resize", again)
    const dark = matchMedia("(prefers-color-scheme: dark)")
    const theme = () => this.layout()
    dark.addEventListener("change", theme)
    this.closers.push(() => observer.disconnect(), () => this.sizes.disconnect(), () => window.removeEventListener("resize", again))
    this.closers.push(() => dark.removeEventListener("change", theme))
  }

  layout() {
    this.width = this.outer.clientWidth
    this.tall = window.innerHeight
    const wide = this.root.clientWidth
    const kind = wide < 640 ? "phone" : wide < 960 ? "narrow" : "wide"
    const classes = this.root.classList
    for (const name of ["phone", "narrow", "wide"]) classes.toggle(name, name === kind)
    classes.toggle("presenter", this.presenter)
    classes.toggle("titled", Boolean(this.model.payload.title || this.model.payload.verdict))
    const size = this.presenter ? clamp(22 * Math.min(wide / 1890, this.tall / 1080), 15, 44) : this.tall < 800 || kind === "phone" ? 13 : 14
    this.root.style.setProperty("--size", `${size.toFixed(1)}px`)
    const room = this.tall - this.fromTop() - (this.host.below ?? 12)
    this.root.style.setProperty("--height", kind === "wide" ? `${Math.max(room, 440)}px` : "auto")
    classes.toggle("low", kind === "wide" && room < 640)
    this.setColours()
    this.theme = themeOf(this.root)
    this.transport.fit()
    this.lines = this.presenter || (kind === "wide" && room < 760) ? 2 : 3
    this.refit()
    this.draw()
  }

  // Every canvas takes the size that the layout gave it.
  refit() {
    this.resized = false
    this.strip.fit(this.theme, this.lines)
    for (const board of this.boards) board.fit(this.theme)
    this.curves.fit(this.theme)
    this.dirty = true
  }

  // Where the stage begins when nothing is scrolled, px below the window's top.
  fromTop() {
    let top = this.root.getBoundingClientRect().top
    for (let up = this.root; up; up = up.parentNode ?? up.host) top += up.scrollTop ?? 0
    return top
  }

  // Dark or light as the host's background is.
  setColours() {
    this.root.classList.remove("dark")
    const probe = document.createElement("canvas").getContext("2d")
    probe.fillStyle = getComputedStyle(this.root).backgroundColor
    probe.fillRect(0, 0, 1, 1)
    const [r, g, b] = probe.getImageData(0, 0, 1, 1).data
    this.root.classList.toggle("dark", 0.299 * r + 0.587 * g + 0.114 * b < 128)
  }

  // the cursor

  go(pass) {
    this.stop()
    this.pass = clamp(pass, 0, this.model.passes - 1)
    this.layer = null
    this.settle()
    this.tell()
  }

  // Where the host wants the cursor; the same wish twice is one wish.
  seekTo(wish) {
    const said = JSON.stringify(wish ?? null)
    if (this.wished === said) return
    this.wished = said
    if (!wish) return
    this.stop()
    this.pass = clamp(wish.step ?? this.pass, 0, this.model.passes - 1)
    this.layer = null
    if (wish.layer !== undefined && wish.expert !== undefined) {
      this.selected = { board: wish.board ?? 0, layer: wish.layer, expert: wish.expert, kept: true }
    }
    this.settle()
  }

  step(by) {
    this.go(this.pass + by)
  }

  stepLayer(by) {
    this.stop()
    const { layers, passes } = this.model
    const event = this.layer === null ? this.pass * layers + (by > 0 ? 0 : layers - 1) : this.pass * layers + this.layer + by
    if (event < 0 || event >= passes * layers) return
    this.pass = Math.floor(event / layers)
    this.layer = event % layers
    this.selected = { board: this.selected?.board ?? this.boards.length - 1, layer: this.layer, expert: this.worthTelling(event), kept: false }
    this.settle()
    this.tell()
  }

  // Of an event's experts the first that missed on the board that is looked at, else the first.
  worthTelling(event) {
    const run = this.boards[this.selected?.board ?? this.boards.length - 1].run
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

  jump(kind, by) {
    this.stop()
    const board = this.selected?.board ?? this.boards.length - 1
    const marks = kind === "difference" ? this.differing : this.boards[board].run.marks(kind)
    const { layers, experts } = this.model
    const here = this.jumped?.kind === kind && this.jumped.pass === this.pass ? this.jumped.mark : this.pass * layers * experts + (by > 0 ? -1 : layers * experts)
    let at = above(marks, here)
    if (by < 0) at = above(marks, here - 1) - 1
    if (at < 0 || at >= marks.length) return
    const mark = marks[at]
    const event = Math.floor(mark / experts)
    this.pass = Math.floor(event / layers)
    this.jumped = { kind, mark, pass: this.pass }
    if (this.layer !== null) this.layer = event % layers
    const brought = kind === "eviction" || kind === "regret" ? this.newcomer(board, event, mark % experts) : null
    this.selected = { board, layer: event % layers, expert: mark % experts, kept: false, fixed: true, ...brought }
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
    if (!this.selected?.kept && !this.selected?.fixed && this.layer === null) this.selected = this.firstWorth()
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

  // Without a choice of the user's: the first expert that one board has and the other has not, else the first miss.
  firstWorth() {
    const { needAt, need, layers } = this.model
    const board = this.selected?.board ?? this.boards.length - 1
    const mine = this.boards[board].run.outcome, theirs = this.boards[1 - board]?.run.outcome ?? mine
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
    return { board, layer: this.model.eventOf[access] % this.model.layers, expert: this.model.need[access], kept: false }
  }

  // playing

  toggle() {
    if (this.playing) {
      this.stop()
      this.settle()
      this.tell()
      return
    }
    const last = this.model.passes - 1
    if (this.pass >= last) this.pass = 0
    this.layer = null
    this.playing = true
    this.apart = this.speed === "times"
    this.phase = 0
    this.time = this.apart ? this.boards.reduce((most, board) => Math.max(most, this.began(board)), 0) : 0
    this.ended = false
    this.dirty = true
  }

  began(board) {
    return this.pass ? board.run.clock.end[this.pass - 1] : 0
  }

  stop() {
    this.playing = false
    this.apart = false
    this.dirty = true
  }

  setSpeed(value) {
    this.speed = value
    if (!this.playing) return
    this.stop()
    this.settle()
    this.toggle()
  }

  tick(now) {
    this.request = requestAnimationFrame(this.tick)
    const passed = Math.min((now - (this.before ?? now)) / 1000, 0.25)
    this.before = now
    if (this.playing) this.advance(passed)
    if (this.resized) this.refit()
    if (this.dirty) this.draw()
  }

  advance(passed) {
    const last = this.model.passes - 1
    this.dirty = true
    if (this.apart) return this.race(passed)
    this.phase += passed * Number(this.speed)
    while (this.phase >= 1 && this.pass < last) {
      this.phase -= 1
      this.pass++
    }
    if (this.pass >= last && this.phase >= 1) {
      this.stop()
      this.settle()
      this.tell()
      return
    }
    for (const board of this.boards) Object.assign(board, { pass: this.pass, t: this.still ? 1 : Math.min(this.phase, 1) })
  }

  // The boards advance by their own times; the slower takes RACE seconds for the whole text.
  race(passed) {
    const last = this.model.passes - 1
    const ends = this.boards.map((board) => board.run.clock.end[last])
    const longest = Math.max(...ends)
    this.time += (passed * longest) / RACE
    for (const board of this.boards) {
      const { end, wall } = board.run.clock
      const pass = Math.min(above(end, this.time), last)
      const t = clamp((this.time - (pass ? end[pass - 1] : 0)) / wall[pass], 0, 1)
      Object.assign(board, { pass, t })
    }
    this.pass = Math.min(...this.boards.map((board) => board.pass))
    if (this.time >= longest) {
      this.playing = false
      this.pass = last
      this.tell()
    }
  }

  // ms of the longer of the boards' passes, the scale of both links.
  longest(pass) {
    let most = 0
    for (const board of this.boards) if (board.run.clock.wall) most = Math.max(most, board.run.clock.wall[this.apart ? board.pass : pass])
    return most || 1
  }

  // what its user did

  choose(board, name, value) {
    if (name === "run") {
      const runs = this.boards.map((one) => one.run)
      runs[board.number] = this.model.runs[Number(value)]
      this.stop()
      this.show(runs)
      return
    }
    this.emit({ kind: "settings", board: board.number, changes: { [name]: name === "slots" ? Number(value) : value } })
  }

  emit(event) {
    this.host.emit?.({ ...event, pass: this.pass })
  }

  // Tells the host and who listens where the cursor stands, once a key that is held down is let go.
  tell() {
    this.dirty = true
    clearTimeout(this.later)
    this.later = setTimeout(() => {
      if (this.playing) return
      this.emit({ kind: "cursor", layer: this.layer, selected: this.selected && { board: this.selected.board, layer: this.selected.layer, expert: this.selected.expert } })
      for (const board of this.boards) board.describe()
      this.curves.describe()
      this.live.textContent = this.story.body.innerText.split("\n").slice(0, 3).join(" ")
    }, 250)
  }

  zoom(by, around = { x: 0.5, y: 0.5 }) {
    const old = this.view ?? { x: 0.5, y: 0.5, zoom: 1 }
    const zoom = clamp(old.zoom * by, 1, Math.max(this.model.layers, this.model.experts) / 4)
    const keep = old.zoom / zoom
    this.look(zoom <= 1.01 ? null : { zoom, x: around.x + (old.x - around.x) * keep, y: around.y + (old.y - around.y) * keep })
  }

  // A selection outside of a zoomed view brings the view to it.
  seek() {
    const board = this.boards[this.selected.board]
    if (!this.view || !this.theme || board.place(this.facts.cell)) return
    const { layer, expert } = this.selected
    const { layers, experts } = this.model
    const at = { layer: (layer + 0.5) / layers, expert: (expert + 0.5) / experts }
    this.look({ zoom: this.view.zoom, x: at[board.across], y: at[board.across === "layer" ? "expert" : "layer"] })
  }

  look(view) {
    const room = view ? 0.5 / view.zoom : 0
    this.view = view && { zoom: view.zoom, x: clamp(view.x, room, 1 - room), y: clamp(view.y, room, 1 - room) }
    for (const board of this.boards) board.fit(this.theme)
    this.dirty = true
  }

  present() {
    this.presenter = !this.presenter
    this.layout()
    this.emit({ kind: "present", on: this.presenter })
  }

  help() {
    this.helpBox.hidden = !this.helpBox.hidden
    if (this.helpBox.hidden) return
    const list = element("dl")
    const own = this.model.payload.actions.filter((one) => one.key).map((one) => [one.key.toUpperCase(), one.label])
    for (const [key, what] of [...this.model.payload.keys, ...own]) list.append(element("dt", "", key), element("dd", "", what))
    const close = element("button", "", "Close")
    close.type = "button"
    close.onclick = () => this.help()
    this.helpBox.replaceChildren(element("h2", "", "Keys"), list, close)
    close.focus()
  }

  draw() {
    this.dirty = false
    this.strip.draw()
    for (const board of this.boards) board.draw()
    this.curves.draw()
    this.transport.draw()
    const state = `${this.playing && !this.apart ? Math.floor(this.pass) : ""} ${JSON.stringify(this.selected)} ${this.pass} ${this.layer} ${this.apart && Math.floor(this.time / 100)}`
    if (this.told !== state || this.toldOf !== this.model) {
      this.told = state
      this.toldOf = this.model
      this.story.draw()
    }
    this.pictures++
    this.root.dataset.pass = this.pass
    this.root.dataset.pictures = this.pictures
  }

  close() {
    cancelAnimationFrame(this.request)
    clearTimeout(this.later)
    for (const close of this.closers) close()
    this.root.remove()
  }
}

function mount(root, payload, host) {
  return new Stage(root, payload, host)
}
