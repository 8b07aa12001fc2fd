// The stage: puts the parts together, lays them out, and tells its host what its user did.
// host: { emit(event), future: false hides the curves after the cursor, presenter: true, below: px to leave
// free }

const SIGN_TERMS = {
  resident: ["slot"],
  hit: ["hit"],
  late: ["late hit"],
  miss: ["miss"],
  prefetched: ["pre-fetch"],
}

class Stage extends Player {
  constructor(root, payload, host = {}) {
    super()
    this.root = element("div", "moeviz-stage")
    this.root.tabIndex = -1 // a click focuses the stage, not all that is around it, which would be framed
    root.append(this.root)
    this.outer = root
    this.host = host
    this.pass = 0
    this.layer = null // in slow motion: the layer that is looked at
    this.selected = null // { board, layer, expert, kept }
    this.playing = false
    this.later = null // timer of what is to be told
    this.apart = false // each board at its own time
    this.speed = "4"
    this.pace = null // tokens a second that the host asked for, while they play
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
    this.zoomable = element("span") // said where cells are small
    this.zoomable.hidden = true
    this.curves = new Curves(this)
    this.results = new Results(this)
    this.story = new Story(this)
    this.transport = new Transport(this)
    this.live = element("div", "live")
    this.live.setAttribute("aria-live", "polite")
    this.helpBox = element("div", "help")
    this.helpBox.hidden = true
    this.side = this.story.root
    const main = element("div", "main")
    const below = element("div", "below")
    below.append(this.curves.root, this.results.root)
    main.append(this.strip.root, this.pair, this.legend, below)
    const head = element("header")
    head.append(this.title, this.verdict)
    this.root.append(head, main, this.side, this.transport.root, this.live, this.helpBox)
  }

  // Takes a payload; what is at hand stays: cursor, selection, view and speed, as far as they still fit.
  update(payload, host) {
    if (host) {
      if ((host.presenter ?? false) !== (this.host.presenter ?? false)) this.presenter = host.presenter
      this.host = { ...this.host, ...host }
    }
    const old = this.model?.payload
    this.atEnd = old?.trace !== payload.trace || this.pass >= this.model.passes - 1 // of what there was
    if (old?.id === payload.id)
      this.model.payload = payload // the same runs: only what is said around them
    else {
      this.model = new Model(payload)
      if (old?.trace !== payload.trace) {
        this.stop()
        this.pass = placed(payload.at, this.model.passes - 1, this.model.promptEnd)
        this.layer = this.selected = this.view = null
      }
      this.pass = clamp(this.pass, 0, this.model.passes - 1)
      this.jumped = null
    }
    this.title.textContent = payload.title
    this.title.hidden = !payload.title
    this.verdict.textContent = payload.verdict
    this.results.take()
    if (this.playing && this.quiet) {
      this.stop()
      this.settle()
      this.tell()
    }
    if (old?.id !== payload.id) this.show(this.model.runs.slice(0, 2))
    else if (JSON.stringify([old.actions, old.menus]) !== JSON.stringify([payload.actions, payload.menus])) {
      this.transport.take()
      for (const board of this.boards) this.transport.menus(board)
      this.transport.fit()
    }
    this.refresh()
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
    if (this.apart && !runs.every((run) => run.clock.wall)) this.stop()
    runs.forEach((run, i) => this.boards[i].take(run))
    this.differing = runs.length > 1 ? differences(runs[0], runs[1]) : new Float64Array(0)
    this.root.classList.toggle("single", runs.length < 2)
    this.curves.take()
    this.transport.take()
    this.settle()
    this.drawLegend()
    this.laid = null
    this.refresh()
    this.describe()
  }

  // The pictures in words, for who does not see them.
  describe() {
    for (const board of this.boards) board.describe()
    this.curves.describe()
  }

  drawLegend() {
    const { legend } = this.model.payload
    const any = (test) => this.boards.some((board) => test(board.run))
    const shown = {
      resident: true,
      hit: true,
      late: any((run) => run.late.some((n) => n)),
      miss: true,
      prefetched: any((run) => run.guess),
      differs: this.boards.length > 1,
    }
    const items = Object.entries(legend).filter(([name]) => shown[name])
    this.legend.replaceChildren(
      ...items.map(([name, text]) => {
        const item = element("span")
        item.append(element("i", name), text)
        tip(item, this.model.payload, SIGN_TERMS[name] ?? [])
        return item
      }),
      this.zoomable,
    )
    this.zoomable.textContent = this.model.payload.phrases.small
  }

  watch() {
    const again = () => this.refresh()
    const observer = new ResizeObserver(again)
    // what stands above it comes and goes, and the stage with it, which changes the height of what holds both
    for (let up = this.outer; up; up = up.parentNode ?? up.host)
      if (up instanceof Element) observer.observe(up)
    this.sizes = new ResizeObserver(() => (this.resized = true)) // of canvases, whatever pushed them
    for (const canvas of this.root.querySelectorAll("canvas")) this.sizes.observe(canvas)
    window.addEventListener("resize", again)
    const dark = matchMedia("(prefers-color-scheme: dark)")
    dark.addEventListener("change", again)
    this.closers.push(
      () => observer.disconnect(),
      () => this.sizes.disconnect(),
      () => window.removeEventListener("resize", again),
    )
    this.closers.push(() => dark.removeEventListener("change", again))
  }

  // Lays out anew where something that it depends on has changed: the room, or the host's theme.
  refresh() {
    const { color, backgroundColor } = getComputedStyle(this.root)
    const { title, verdict } = this.model.payload
    const around = [
      this.outer.clientWidth,
      window.innerHeight,
      this.fromTop(),
      this.host.below,
      title,
      verdict,
    ]
    const now = [...around, color, backgroundColor, this.presenter].join()
    if (this.laid === now) return
    this.laid = now
    this.layout()
  }

  layout() {
    this.tall = window.innerHeight
    const wide = this.root.clientWidth
    const kind = wide < 640 ? "phone" : wide < 760 ? "narrow" : "wide"
    // in front of people text is a share of the window, beside a lesson's text too
    const large = clamp(22 * Math.min(wide / 1200, this.tall / 1080), 15, 44)
    const unit = this.presenter ? large / 14 : 1 // px that 1 px at a desk is
    const classes = this.root.classList
    classes.toggle("slim", kind === "wide" && wide < 960 * unit) // beside a lesson's text
    classes.toggle("tight", kind === "wide" && wide < 1080 * unit) // a board's numbers stand under its menus
    for (const name of ["phone", "narrow", "wide"]) classes.toggle(name, name === kind)
    classes.toggle("presenter", this.presenter)
    classes.toggle("titled", Boolean(this.model.payload.title || this.model.payload.verdict))
    const size = this.presenter
      ? large
      : this.tall < 800 || kind === "phone"
        ? 13
        : 14
    this.root.style.setProperty("--size", `${size.toFixed(1)}px`)
    const room = this.tall - this.fromTop() - (this.host.below ?? 12)
    this.root.style.setProperty("--height", kind === "wide" ? `${Math.max(room, 440)}px` : "auto")
    classes.toggle("low", kind === "wide" && room < 640 * unit)
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
    this.sharpness = window.devicePixelRatio
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

  choose(board, name, value) {
    if (name === "run") {
      const runs = this.boards.map((one) => one.run)
      runs[board.number] = this.model.runs[Number(value)]
      this.stop()
      this.show(runs)
      return
    }
    this.emit({
      kind: "settings",
      board: board.number,
      changes: { [name]: name === "slots" ? Number(value) : value },
    })
  }

  emit(event) {
    const { passes, payload } = this.model
    this.host.emit?.({ ...event, pass: this.pass, end: this.pass === passes - 1, trace: payload.trace })
  }

  // Tells the host and who listens where the cursor stands, once a key that is held down is let go.
  tell() {
    this.dirty = true
    clearTimeout(this.later)
    this.later = setTimeout(() => {
      this.later = null
      if (this.playing) return
      this.emit({
        kind: "cursor",
        layer: this.layer,
        speed: this.speed,
        kept: Boolean(this.selected?.kept),
        selected: this.selected && {
          board: this.selected.board,
          layer: this.selected.layer,
          expert: this.selected.expert,
        },
      })
      this.describe()
      this.live.textContent = this.story.body.innerText.split("\n").slice(0, 3).join(" ")
    }, 250)
  }

  // Where the cursor stands, if nobody was told yet, nor will be now: the stage plays, or it was moved just
  // now. Else null.
  untold() {
    const waits = this.playing || this.later !== null
    clearTimeout(this.later)
    this.later = null
    return waits ? this.pass : null
  }

  // Where everything is stacked the story of what was tapped stands below it all: it comes into sight.
  toStory() {
    if (!this.root.classList.contains("phone")) return
    const behavior = this.motion.matches ? "instant" : "smooth"
    requestAnimationFrame(() => this.side.scrollIntoView({ block: "nearest", behavior }))
  }

  present() {
    this.presenter = !this.presenter
    this.refresh()
    this.emit({ kind: "present", on: this.presenter })
  }

  help() {
    this.helpBox.hidden = !this.helpBox.hidden
    if (this.helpBox.hidden) return
    const list = element("dl")
    const own = this.model.payload.actions
      .filter((one) => one.key)
      .map((one) => [one.key.toUpperCase(), one.label])
    for (const [key, what] of [...this.model.payload.keys, ...own])
      list.append(element("dt", "", key), element("dd", "", what))
    const words = element("dl", "words")
    for (const [term, sentence] of Object.entries(this.model.payload.glossary))
      words.append(element("dt", "", term), element("dd", "", sentence))
    const close = element("button", "", "Close")
    close.type = "button"
    close.onclick = () => this.help()
    const signs = element("div", "legend")
    signs.append(...[...this.legend.querySelectorAll(":has(i)")].map((sign) => sign.cloneNode(true)))
    this.helpBox.replaceChildren(
      element("h2", "", "Keys and signs"),
      signs,
      list,
      element("h2", "", "Words"),
      words,
      close,
    )
    close.focus()
    this.helpBox.scrollTop = 0
  }

  draw() {
    this.dirty = false
    this.strip.draw()
    for (const board of this.boards) board.draw()
    this.curves.draw()
    this.transport.draw()
    const tenths = this.apart && Math.floor(this.time / 100)
    const state = JSON.stringify([this.playing, this.selected, this.pass, this.layer, tenths, this.laid])
    if (this.told !== state || this.toldOf !== this.model) {
      this.told = state
      this.toldOf = this.model
      this.story.draw()
    }
    if (!this.pictures++) performance.mark("moeviz-stage") // when its first picture stood
    this.root.dataset.runs = this.model.payload.id
    this.root.dataset.pass = this.pass
    this.root.dataset.pictures = this.pictures
  }

  // What a stage that is put elsewhere in the page, or shown again, goes on with.
  memory() {
    const { pass, layer, selected, speed, view, wished, playing } = this
    const atEnd = pass >= this.model.passes - 1
    return { trace: this.model.payload.trace, pass, layer, selected, speed, view, wished, playing, atEnd }
  }

  recall(memory) {
    if (memory?.trace !== this.model.payload.trace) return
    const { layer, selected, speed, view, wished, atEnd } = memory
    const pass = Math.min(memory.pass, this.model.passes - 1)
    Object.assign(this, { pass, layer, selected, speed, view, wished, atEnd })
    this.transport.take()
    this.settle()
    if (memory.playing) this.toggle()
    this.refit()
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
