// One run: what a cache did, event by event, and who is resident at any of them.
// States are those of moeviz/charts/board.py. Residency is walked from the nearest of the pictures that are
// kept on the way.

const EMPTY = 0,
  RESIDENT = 1,
  HIT = 2,
  LATE = 3,
  MISS = 4,
  PREFETCHED = 5
const OUTCOMES = [HIT, LATE, MISS]

class Run {
  constructor(model, raw) {
    this.model = model
    this.about = raw
    this.outcome = unpackPairs(raw.outcome, model.need.length).map((kind) => OUTCOMES[kind])
    const loads = raw.loads
    this.loadAt = sums(unpack(loads.counts)) // first load of each event
    this.loadEvent = new Int32Array(this.loadAt[this.loadAt.length - 1])
    for (let event = 0; event + 1 < this.loadAt.length; event++)
      this.loadEvent.fill(event, this.loadAt[event], this.loadAt[event + 1])
    const expert = unpack(loads.expert),
      victim = unpack(loads.victim)
    const layer = loads.layer && unpack(loads.layer),
      victimLayer = loads.victimLayer && unpack(loads.victimLayer)
    this.came = new Int32Array(expert.length) // cell of each load
    this.left = new Int32Array(expert.length) // cell of who left for it; -1 nobody
    for (let i = 0; i < expert.length; i++) {
      const here = this.loadEvent[i] % model.layers
      this.came[i] = (layer ? layer[i] : here) * model.experts + expert[i]
      this.left[i] = victim[i] < 0 ? -1 : (victimLayer ? victimLayer[i] : here) * model.experts + victim[i]
    }
    this.guess = loads.guess && unpack(loads.guess) // bit 0: fetched ahead, bit 1: used
    this.others = new Map() // of a load: cells of who left besides that one
    if (loads.leavers) {
      const cells = unpack(loads.leavers.cell)
      unpack(loads.leavers.load).forEach((load, i) =>
        this.others.set(load, [...(this.others.get(load) ?? []), cells[i]]),
      )
    }
    this.arrivals = grouped(this.came, model.cells)
    this.departures = this.departing(model.cells)
    this.state = new Uint8Array(model.cells)
    const startLayer = unpack(raw.start.layer),
      startExpert = unpack(raw.start.expert)
    for (let i = 0; i < startLayer.length; i++)
      this.state[startLayer[i] * model.experts + startExpert[i]] = RESIDENT
    this.started = this.state.slice()
    this.event = 0
    this.every = Math.max(8, Math.ceil(model.passes / 256)) * model.layers // events between kept pictures
    this.kept = []
    this.count()
    this.clock = new Clock(this)
    this.story = raw.story && new Stories(this, raw.story)
  }

  // Counts of each pass, and the pictures to walk from.
  count() {
    const { passes, layers, needAt } = this.model
    this.hits = new Uint32Array(passes)
    this.late = new Uint32Array(passes)
    this.misses = new Uint32Array(passes)
    const events = passes * layers
    for (let event = 0; event < events; event++) {
      if (event % this.every === 0) this.kept.push(this.state.slice())
      const pass = Math.floor(event / layers)
      for (let i = needAt[event]; i < needAt[event + 1]; i++) {
        if (this.outcome[i] === HIT) this.hits[pass]++
        else if (this.outcome[i] === MISS) this.misses[pass]++
        else this.late[pass]++
      }
      this.happen(event)
    }
    this.event = events
    this.soFar = { hits: sums(this.hits), late: sums(this.late), misses: sums(this.misses) }
  }

  // Loads by the cells of who left for them.
  departing(cells) {
    if (!this.others.size) return grouped(this.left, cells)
    const gone = [],
      loads = []
    this.left.forEach((cell, load) => {
      for (const one of [cell, ...(this.others.get(load) ?? [])]) {
        gone.push(one)
        loads.push(load)
      }
    })
    const found = grouped(gone, cells)
    return { at: found.at, items: found.items.map((i) => loads[i]) }
  }

  // Lets one event happen.
  happen(event) {
    if (!this.about.keeps) return
    const { needAt, need, layers, experts } = this.model
    const base = (event % layers) * experts
    for (let i = needAt[event]; i < needAt[event + 1]; i++)
      if (this.outcome[i] !== MISS) this.state[base + need[i]] = RESIDENT
    for (let i = this.loadAt[event]; i < this.loadAt[event + 1]; i++) {
      if (this.left[i] >= 0) this.state[this.left[i]] = EMPTY
      for (const cell of this.others.get(i) ?? []) this.state[cell] = EMPTY
      this.state[this.came[i]] = this.guess && this.guess[i] & 1 ? PREFETCHED : RESIDENT
    }
  }

  // Makes `state` what it is before an event.
  to(event) {
    const nearest = Math.min(Math.floor(event / this.every), this.kept.length - 1)
    if (event < this.event || event - this.event > this.every) {
      this.state.set(this.kept[nearest])
      this.event = nearest * this.every
    }
    while (this.event < event) this.happen(this.event++)
  }

  // Writes over `out` a whole pass: each layer as it is before its own event, with what its event needs.
  frame(pass, out) {
    const { layers, experts } = this.model
    this.to(pass * layers)
    for (let layer = 0; layer < layers; layer++) {
      const event = pass * layers + layer,
        base = layer * experts
      out.set(this.state.subarray(base, base + experts), base)
      this.mark(event, out)
      this.happen(event)
      this.event = event + 1
    }
  }

  // Writes over `out` all layers as they are before one event, with what this one needs.
  moment(event, out) {
    this.to(event)
    out.set(this.state)
    this.mark(event, out)
  }

  mark(event, out) {
    const { needAt, need, layers, experts } = this.model
    const base = (event % layers) * experts
    for (let i = needAt[event]; i < needAt[event + 1]; i++) out[base + need[i]] = this.outcome[i]
  }

  // The last load of a cell before the end of an event, and the last time that it left before the event; -1
  // where there is none.
  lastArrival(cell, event) {
    return this.before(this.arrivals, cell, this.loadAt[event + 1])
  }

  lastDeparture(cell, event) {
    return this.before(this.departures, cell, this.loadAt[event])
  }

  before(groups, cell, load) {
    const i = above(groups.items, load - 1, groups.at[cell], groups.at[cell + 1]) - 1
    return i >= groups.at[cell] ? groups.items[i] : -1
  }

  // The load that brought a cell at an event, or that took it away there; -1 where there is none.
  broughtAt(cell, event) {
    for (let i = this.loadAt[event]; i < this.loadAt[event + 1]; i++) if (this.came[i] === cell) return i
    return -1
  }

  takenAt(cell, event) {
    for (let i = this.loadAt[event]; i < this.loadAt[event + 1]; i++)
      if (this.left[i] === cell || this.others.get(i)?.includes(cell)) return i
    return -1
  }

  // Where jumps go: event x experts + expert, ascending. Evictions are named by who came.
  marks(kind) {
    this.found ??= {}
    if (this.found[kind]) return this.found[kind]
    const { need, eventOf, experts } = this.model
    const out = []
    if (kind === "miss") {
      for (let i = 0; i < need.length; i++)
        if (this.outcome[i] === MISS) out.push(eventOf[i] * experts + need[i])
    } else if (kind === "eviction") {
      for (let i = 0; i < this.left.length; i++)
        if (this.left[i] >= 0) out.push(this.loadEvent[i] * experts + (this.came[i] % experts))
    } else if (this.story) {
      for (const load of this.story.regretted())
        out.push(this.loadEvent[load] * experts + (this.came[load] % experts))
    }
    return (this.found[kind] = Float64Array.from(out).sort())
  }

  // Whether there is anything of a kind to jump to.
  has(kind) {
    if (kind === "miss") return this.outcome.includes(MISS)
    if (kind === "eviction") return this.left.some((cell) => cell >= 0)
    return Boolean(this.story?.regretted().size)
  }
}

// Where one run finds an expert that the other does not: event x experts + expert, ascending.
function differences(a, b) {
  const { need, eventOf, experts } = a.model
  const out = []
  for (let i = 0; i < need.length; i++) {
    if ((a.outcome[i] === MISS) !== (b.outcome[i] === MISS)) out.push(eventOf[i] * experts + need[i])
  }
  return Float64Array.from(out)
}
