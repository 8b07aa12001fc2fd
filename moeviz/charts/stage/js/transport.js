// Buttons and menus: play, step, jump, the speed; and on each board its policy, its slots and its pre-fetch.

const SPEEDS = [
  ["1", "1 token a second"],
  ["4", "4 tokens a second"],
  ["16", "16 tokens a second"],
  ["times", "as measured"],
]
const JUMPS = [
  // kind, label, what it goes to with its key, terms in it
  ["miss", "miss", "next miss (n)", ["miss"]],
  ["eviction", "eviction", "next eviction (e)", ["eviction"]],
  ["difference", "difference", "next difference between the boards (d)", []],
  ["regret", "regretted", "next regretted eviction (g)", ["regret"]],
]

class Transport {
  constructor(stage) {
    this.stage = stage
    this.root = element("div", "transport")
    this.root.setAttribute("role", "group")
    this.root.setAttribute("aria-label", "play and step")
    // where boards are stacked, one is out of sight: both large numbers again
    this.scores = [element("b", "a"), element("b", "b")]
    const scores = this.group("scores")
    scores.setAttribute("aria-hidden", "true")
    scores.append(...this.scores)
    const play = this.group()
    this.button(play, "back", "◀", "one token back (←)", () => stage.step(-1))
    this.play = this.button(play, "play", "Play", "play or pause (Space)", () => stage.toggle())
    this.button(play, "on", "▶", "one token on (→)", () => stage.step(1))
    this.where = element("span", "where")
    this.root.append(this.where)
    const layers = this.group("slow")
    this.button(layers, "", "‹", "one layer back (,)", () => stage.stepLayer(-1))
    this.layer = element("span", "layer", "layer")
    layers.append(this.layer)
    this.button(layers, "", "›", "one layer on (.)", () => stage.stepLayer(1))
    const jumps = this.group("jumps")
    this.jumped = element("span", "label", "next")
    jumps.append(this.jumped)
    this.jumps = {}
    for (const [kind, name, label] of JUMPS)
      this.jumps[kind] = this.button(jumps, "", name, label, () => stage.jump(kind, 1))
    const speed = this.group("speed")
    this.speed = this.select(speed, "speed", SPEEDS, (value) => stage.setSpeed(value))
    this.actions = this.group("actions")
    this.help = this.button(this.group("more"), "", "?", "keys and signs (?)", () => stage.help())
  }

  group(name = "") {
    const made = element("div", `group ${name}`)
    this.root.append(made)
    return made
  }

  button(parent, name, text, label, act) {
    const made = element("button", name, text)
    made.type = "button"
    made.title = label
    if (text.length < 3) made.setAttribute("aria-label", label)
    made.onclick = act
    made.onpointerdown = (event) => event.preventDefault() // a mouse leaves the keys to the stage
    parent.append(made)
    return made
  }

  select(parent, label, items, act) {
    const made = element("select")
    made.setAttribute("aria-label", label)
    for (const [value, text] of items) {
      const option = element("option", "", text)
      option.value = value
      made.append(option)
    }
    made.onchange = () => {
      this.narrow(made)
      act(made.value)
      made.blur()
    }
    parent.append(made)
    return made
  }

  // As wide as what is chosen, not as the longest choice.
  narrow(select) {
    const style = getComputedStyle(select)
    const measure = (this.measure ??= element("canvas").getContext("2d"))
    measure.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`
    const text = select.selectedOptions[0]?.textContent ?? ""
    const arrow = parseFloat(style.fontSize) * (style.appearance === "none" ? 0.3 : 1.7)
    select.style.width = `${Math.ceil(measure.measureText(text).width + arrow)}px`
  }

  take() {
    const { stage } = this
    const { payload } = stage.model
    this.offer(payload.actions)
    this.play.disabled = stage.quiet
    const timed = stage.boards.every((board) => board.run.clock.wall)
    const last = this.speed.lastElementChild
    last.disabled = !timed
    const sources = stage.boards.map((board) => board.run.clock.source)
    const modelled = sources.some((source) => source.startsWith("modelled"))
    last.textContent = modelled ? "as modelled" : sources.includes("watched") ? "as watched" : "as measured"
    last.title = timed ? "each board at its own speed: the faster runs ahead" : payload.phrases["no times"]
    for (const [kind, , label, terms] of JUMPS) tip(this.jumps[kind], payload, terms, label)
    this.jumps.difference.hidden = stage.boards.length < 2
    this.jumps.regret.hidden = stage.boards.every(({ run }) => !run.story && !run.about.soon)
    this.speed.value = stage.pace ? "paced" : stage.speed
  }

  // The host's own buttons. They stay while they say the same: one that is put in another's place while the
  // mouse is down on it, as a run that is watched grows, is never clicked, and one that has the focus loses
  // it.
  offer(actions) {
    const said = JSON.stringify(actions)
    if (this.offered === said) return
    this.offered = said
    this.actions.replaceChildren()
    for (const { id, label, about, key } of actions) {
      const made = this.button(this.actions, "", label, about ?? label, () => this.stage.emit({ kind: id }))
      if (key) made.append(element("kbd", "", key.toUpperCase()))
    }
  }

  // The three menus of a board. Without the host's choices, the policies that the page was made with.
  menus(board) {
    const { payload } = this.stage.model
    const about = board.run.about
    board.name.replaceChildren()
    board.menus.replaceChildren()
    const own = payload.menus
    const choose = (name) => (value) => this.stage.choose(board, name, value)
    const policies = own.policy ?? payload.runs.map((run, i) => [i, run.name])
    if (policies.length > 2 || own.policy) {
      const value = own.policy ? about.policy : payload.runs.indexOf(about)
      this.select(board.name, "policy", policies, choose(own.policy ? "policy" : "run")).value = String(value)
    } else board.name.textContent = about.name
    tip(board.name, payload, ["policy"], about.means.policy)
    const fixed = {
      slots: `${about.slots} slots${about.scope === "model" ? " in all" : ""}`,
      prefetch: about.prefetchName,
    }
    for (const name of ["slots", "prefetch"]) {
      if (about.baseline) continue
      if (own[name]) {
        const items = own[name].some(([value]) => String(value) === String(about[name]))
          ? own[name]
          : [[about[name], fixed[name]], ...own[name]]
        this.select(board.menus, name, items, choose(name)).value = String(about[name])
      } else board.menus.append(element("span", "", fixed[name]))
      const term = { slots: "slot", prefetch: "pre-fetch" }[name]
      tip(board.menus.lastElementChild, payload, [term, "expert"], about.means[name])
    }
  }

  // One of the menu's; "as measured" may be asked for before the times have come.
  setSpeed(value) {
    if (![...this.speed.options].some((one) => one.value === value)) return
    this.stage.speed = this.speed.value = value
    this.narrow(this.speed)
  }

  fit() {
    for (const select of this.stage.root.querySelectorAll("select")) this.narrow(select)
  }

  // The menu says the pace that plays, also where the host chose it.
  drawPace() {
    const { pace, speed } = this.stage
    if (this.pace === pace) return
    this.pace = pace
    this.paced?.remove()
    this.paced = null
    if (pace) {
      this.paced = element("option", "", `${pace} tokens a second`)
      this.paced.value = "paced"
      this.speed.prepend(this.paced)
    }
    this.speed.value = pace ? "paced" : speed
    this.narrow(this.speed)
  }

  drawScores() {
    const { boards } = this.stage
    const names = boards.map((board) => board.run.about.name)
    const short = names.map((name) => name.split(" (")[0])
    boards.forEach((board, i) => {
      const name = boards.length > 1 && short[0] === short[1] ? names[i] : short[i]
      const said = boards.length > 1 ? `${name} ${board.ratio.textContent}` : ""
      if (this.scores[i].textContent !== said) this.scores[i].textContent = said
    })
  }

  // A board on which there is nothing of a kind has nowhere to jump to.
  offerJumps(run) {
    if (this.jumpsOf === run && this.differing === this.stage.differing) return
    this.jumpsOf = run
    this.differing = this.stage.differing
    for (const [kind] of JUMPS)
      this.jumps[kind].disabled = kind === "difference" ? !this.differing.length : !run.has(kind)
  }

  draw() {
    const { stage } = this
    const { model } = stage
    const text = stage.playing ? "Pause" : "Play"
    if (this.play.textContent !== text) this.play.textContent = text
    this.drawPace()
    this.drawScores()
    this.play.setAttribute("aria-pressed", String(stage.playing))
    const name = model.nameOf(stage.pass)
    this.where.textContent = stage.pass < model.promptEnd ? name : `${name} of ${model.passes - 1}`
    this.offerJumps(stage.boards[stage.asked].run)
    const jumped = stage.jumped?.pass === stage.pass ? stage.jumped : null
    this.jumped.textContent = jumped?.round || "next"
    this.layer.textContent = stage.layer === null ? "layer" : `layer ${stage.layer}`
  }
}
