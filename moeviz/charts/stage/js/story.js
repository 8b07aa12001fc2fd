// At the side: the story of what is selected. All sentences come from the payload; names and numbers are
// filled in here.

class Story {
  constructor(stage) {
    this.stage = stage
    this.root = element("aside", "story")
    this.root.setAttribute("aria-label", "story")
    this.root.tabIndex = 0 // so that a long one is scrolled by the keyboard too
    this.body = element("div", "told")
    this.foot = element("div", "foot")
    this.root.append(this.body, this.foot)
  }

  draw() {
    const { stage } = this
    const parts = stage.playing || !stage.selected ? this.ofToken() : this.ofExpert()
    this.body.replaceChildren(...parts)
    this.fit()
  }

  // Of who was there as many as there is room for, whole. Whoever left, and Belady's choice, go last: the
  // sentences above name them.
  fit() {
    const { body, root } = this
    const high = () => root.scrollHeight > root.clientHeight
    root.classList.remove("goes-on")
    const there = [...body.querySelectorAll(".there > li")]
    const stays = (one) => one.matches(".stays")
    const left = [...there.filter(stays), ...there.filter((one) => !stays(one))]
    while (left.length && high()) left.pop().remove()
    if (!left.length) body.querySelectorAll(".there, .who-was-there").forEach((one) => one.remove())
    else if (left.length < there.length) {
      const said = this.say("some of them", { n: left.length, all: there.length })
      body.querySelector(".who-was-there").textContent = said
    }
    root.classList.toggle("goes-on", high())
  }

  get phrases() {
    return this.stage.model.payload.phrases
  }

  say(name, values) {
    return say(this.phrases[name], values)
  }

  // While it plays, and where nothing is selected: the token as a whole, and both boards' score at it.
  ofToken() {
    const { stage } = this
    const { model } = stage
    const parts = []
    if (stage.apart) return this.ofRace()
    const tokens = model.tokenAt[stage.pass + 1] - model.tokenAt[stage.pass]
    const name = model.nameOf(stage.pass)
    parts.push(element("p", "kicker", title(tokens > 1 ? this.say("at once", { name, n: tokens }) : name)))
    parts.push(element("h3", "", this.text(stage.pass)))
    for (const board of stage.boards) parts.push(this.boardLine(board))
    const [a, b] = stage.boards.map((board) => board.run)
    if (b && a.misses[stage.pass] === b.misses[stage.pass] && !this.differs())
      parts.push(element("p", "", this.phrases.same))
    if (b) parts.push(element("h3", "lead", this.lead()))
    parts.push(element("p", "quiet", this.phrases.ask))
    return parts
  }

  // Who hits more often so far, by how many points.
  lead() {
    const { boards, pass } = this.stage
    const [a, b] = boards.map(({ run }) => {
      const { hits, late, misses } = run.soFar
      return (100 * hits[pass + 1]) / (hits[pass + 1] + late[pass + 1] + misses[pass + 1] || 1)
    })
    const points = Math.abs(a - b).toFixed(1)
    return points === "0.0"
      ? this.phrases["no lead"]
      : this.say("lead", { name: boards[a > b ? 0 : 1].run.about.name, points })
  }

  differs() {
    const { boards, model, pass } = this.stage
    for (let i = model.needAt[pass * model.layers]; i < model.needAt[(pass + 1) * model.layers]; i++) {
      if ((boards[0].run.outcome[i] === MISS) !== (boards[1].run.outcome[i] === MISS)) return true
    }
    return false
  }

  text(pass) {
    const { model } = this.stage
    const from = model.tokenAt[pass],
      to = model.tokenAt[pass + 1]
    const text = model.texts
      .slice(from, Math.min(to, from + 40))
      .join("")
      .replaceAll("\n", "⏎")
      .trim()
    return `“${text.length > 60 ? text.slice(0, 59) + "…" : text || "space"}”`
  }

  boardLine(board) {
    const { model } = this.stage
    const misses = board.run.misses[board.pass],
      needs = model.needed[board.pass]
    const values = { name: board.run.about.name, hits: needs - misses, needs, misses }
    return element(
      "p",
      `line ${board.number ? "b" : "a"}`,
      this.say(misses ? "board line" : "board line all", values),
    )
  }

  // Each board at its own time: who is where, and who was through first.
  ofRace() {
    const { stage } = this
    const { model } = stage
    const parts = []
    const ends = stage.boards.map((board) => board.run.clock.end[model.passes - 1])
    const all = Math.max(...ends) / 1000
    const way = all > RACE ? "faster" : "slower"
    const factor = (all > RACE ? all / RACE : RACE / all).toFixed(1)
    const values = {
      time: Math.min(stage.time / 1000, all).toFixed(1),
      all: all.toFixed(1),
      factor,
      way: this.phrases[way],
    }
    parts.push(element("p", "kicker", this.say("race", values)))
    for (const board of stage.boards) {
      const done = stage.time >= ends[board.number]
      const took = done ? `${(ends[board.number] / 1000).toFixed(1)} s` : model.nameOf(board.pass)
      const line = element("p", `line ${board.number ? "b" : "a"}`)
      line.append(element("strong", "", board.run.about.name), ` ${took}`)
      parts.push(line, element("p", "quiet", this.source(board.run.clock)))
    }
    const first = ends.length > 1 && ends[0] !== ends[1] ? (ends[0] < ends[1] ? 0 : 1) : -1
    if (first >= 0 && stage.time >= ends[first]) {
      parts.push(element("h3", "", this.say("first done", { name: stage.boards[first].run.about.name })))
    }
    return parts
  }

  source(clock) {
    return clock.source ? this.say(clock.source, { name: clock.of }) : ""
  }

  ofExpert() {
    const { stage } = this
    const { model, facts } = stage
    const board = stage.boards[stage.selected.board]
    const run = board.run
    const kicker = element("p", `kicker ${board.number ? "b" : "a"}`)
    kicker.textContent = `${run.about.name} · ${model.nameOf(stage.pass)} · layer\u00a0${facts.layer}`
    const parts = [kicker]
    const states = {
      [HIT]: "hit",
      [LATE]: "late",
      [MISS]: "miss",
      [RESIDENT]: "resident",
      [PREFETCHED]: "prefetched",
      [EMPTY]: "empty",
    }
    parts.push(element("h3", "", this.say(states[facts.state], { expert: facts.expert })))
    parts.push(element("p", "", this.past(run, facts)))
    const eviction = this.eviction(run, facts)
    parts.push(...eviction)
    parts.push(element("p", "quiet", this.needs(facts)))
    const other = stage.boards[1 - board.number]
    if (other && facts.access >= 0) parts.push(this.elsewhere(other.run, facts))
    return parts
  }

  // "It was here until token 120, then it left for expert 3."
  past(run, facts) {
    const { model } = this.stage
    if (!run.about.keeps) return this.phrases["kept nothing"]
    if (facts.state !== MISS && facts.state !== EMPTY) {
      if (facts.arrival < 0) return facts.known ? this.phrases["from the start"] : ""
      const ahead = run.guess && run.guess[facts.arrival] & 1
      return this.say(ahead ? "came ahead" : "came", { when: this.moment(run.loadEvent[facts.arrival]) })
    }
    if (facts.departure < 0) return facts.known ? "" : this.phrases.cold
    const event = run.loadEvent[facts.departure]
    const other = this.expert(run.came[facts.departure], facts.layer)
    const same = Math.floor(event / model.layers) === this.stage.pass
    return same
      ? this.say("left in pass", { other })
      : this.say("left before", { when: this.moment(event), other })
  }

  eviction(run, facts) {
    const { model } = this.stage
    if (facts.brought < 0 && facts.taken < 0) return []
    if (facts.victim < 0) return [element("p", "", run.about.keeps ? this.phrases["free slot"] : "")]
    const victim = this.expert(facts.victim, facts.layer),
      newcomer = this.expert(facts.newcomer, facts.layer)
    if (!facts.story) return [element("p", "quiet", this.phrases[this.why(run)])]
    const { why, belady, regret, there } = facts.story
    const key =
      facts.taken >= 0 && facts.brought < 0 ? "victim is" : facts.guess ? "left for guess" : "left for it"
    const parts = [element("p", "victim", this.say(key, { victim, newcomer, why }))]
    if (facts.others.length) {
      const others = facts.others.map((cell) => this.expert(cell, facts.layer)).join(", ")
      parts.push(element("p", "", this.say("left too", { others })))
    }
    const values = { victim, expert: this.expert(belady, facts.layer), count: this.tokens(regret) }
    const end = regret < 0 ? "regret never" : regret === 0 ? "regret same" : "regret"
    const agrees = belady === facts.victim
    const parted = `${this.say("belady", values)} ${this.say(end, values)}`
    parts.push(element("p", agrees ? "" : "regret", agrees ? this.phrases["belady agrees"] : parted))
    tip(parts.at(-1), model.payload, ["belady", "regret"])
    if (there.length > 1) {
      const heading = element("p", "quiet who-was-there", this.phrases["who was there"])
      parts.push(heading, this.residents(there, facts))
    }
    return parts
  }

  // Why it is not told why somebody left.
  why(run) {
    return this.stage.model.payload.live ? "told later" : run.about.soon ? "soon" : "untold"
  }

  // Who was there: a bar for each one's score, the policy's words for it, and when it is needed next.
  residents(there, facts) {
    const { model } = this.stage
    const list = element("ul", "there")
    const { belady } = facts.story
    for (const one of there) {
      const item = element("li", one.status.replaceAll(" ", "-"))
      item.classList.toggle("stays", one.cell === belady || one.cell === facts.victim)
      const head = element("div", "who")
      const bar = element("span", "bar")
      const fill = element("span")
      fill.style.width = `${Math.round(Math.max(one.share, 0.02) * 100)}%`
      bar.append(fill)
      const role =
        one.cell === belady && belady !== facts.victim ? this.phrases["belady's"] : this.phrases[one.status]
      head.append(
        element("strong", "", `expert ${this.expert(one.cell, facts.layer)}`),
        bar,
        element("span", "role", role),
      )
      const next = this.next(model.nextUse(one.cell, facts.event))
      item.append(head, element("div", "next", one.says ? `${one.says}; ${next}` : next))
      list.append(item)
    }
    return list
  }

  needs(facts) {
    const { model } = this.stage
    const last =
      facts.last < 0 ? this.phrases["first use"] : this.say("last use", { when: this.distance(facts.last) })
    const text = `${last}; ${this.next(facts.next)}.`
    return text.charAt(0).toUpperCase() + text.slice(1)
  }

  next(event) {
    if (event >= 0) return this.say("next use", { when: this.distance(event) })
    return this.phrases[this.stage.model.payload.live ? "no next use yet" : "no next use"]
  }

  elsewhere(run, facts) {
    const kind = { [HIT]: "other there", [LATE]: "other late", [MISS]: "other not" }[
      run.outcome[facts.access]
    ]
    return element("p", "elsewhere", this.say(kind, { name: run.about.name }))
  }

  expert(cell, layer) {
    const { experts } = this.stage.model
    const at = Math.floor(cell / experts)
    return at === layer ? String(cell % experts) : this.say("of layer", { expert: cell % experts, layer: at })
  }

  moment(event) {
    return this.stage.model.nameOf(Math.floor(event / this.stage.model.layers))
  }

  distance(event) {
    const apart = Math.floor(event / this.stage.model.layers) - this.stage.pass
    if (apart === 0) return this.phrases["this token"]
    return apart < 0
      ? this.say("ago", { count: this.tokens(-apart) })
      : this.say("in", { count: this.tokens(apart) })
  }

  tokens(n) {
    return n === 1 ? this.phrases.token : this.say("tokens", { n })
  }
}
