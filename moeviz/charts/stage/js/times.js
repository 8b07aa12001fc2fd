// The time of one run: how long each pass takes, and what compute and link do in it.
// Without recorded or modelled times the passes are drawn not to scale: each expert computes for one unit and
// crosses in three.

const COMPUTE = 0,
  LINK = 1
const COMPUTES = 0,
  STALLS = 1,
  OTHER = 2,
  DEMANDED = 3,
  GUESS_USED = 4,
  GUESS_WASTED = 5

class Clock {
  constructor(run) {
    this.run = run
    const raw = run.about.times
    this.source = raw ? raw.source : ""
    this.of = raw ? raw.of : ""
    this.wall = raw && unpack(raw.wall) // ms of each pass
    if (this.wall) {
      this.end = new Float64Array(this.wall.length)
      let all = 0
      for (let i = 0; i < this.wall.length; i++) this.end[i] = all += this.wall[i]
    }
    if (raw && raw.lanes) {
      for (const name of ["lane", "kind", "start", "end", "layer", "expert"])
        this["_" + name] = unpack(raw.lanes[name])
      this._at = sums(unpack(raw.lanes.counts))
    }
    this.last = { pass: -1, segments: [] }
  }

  // Segments of a pass; start and end are shares of it.
  segments(pass) {
    if (this.last.pass !== pass)
      this.last = { pass, segments: this._at ? this.recorded(pass) : this.drawn(pass) }
    return this.last.segments
  }

  recorded(pass) {
    const out = []
    for (let i = this._at[pass]; i < this._at[pass + 1]; i++) {
      out.push({
        lane: this._lane[i],
        kind: this._kind[i],
        start: this._start[i] / 65535,
        end: this._end[i] / 65535,
        layer: this._layer[i],
        expert: this._expert[i],
      })
    }
    return out
  }

  drawn(pass) {
    const { layers, experts, needAt, need } = this.run.model
    const out = []
    let now = 0,
      link = 0
    const put = (lane, kind, start, end, layer, expert) => out.push({ lane, kind, start, end, layer, expert })
    for (let layer = 0; layer < layers; layer++) {
      const event = pass * layers + layer
      const ready = []
      const ahead = []
      for (let i = needAt[event]; i < needAt[event + 1]; i++)
        if (this.run.outcome[i] !== MISS) ready.push(need[i])
      for (const expert of ready) put(COMPUTE, COMPUTES, now, ++now, layer, expert)
      link = Math.max(link, now - ready.length)
      for (let i = this.run.loadAt[event]; i < this.run.loadAt[event + 1]; i++) {
        const expert = this.run.came[i] % experts
        if (this.run.guess && this.run.guess[i] & 1) {
          ahead.push(i)
          continue
        }
        put(LINK, DEMANDED, link, link + 3, layer, expert)
        link += 3
        if (link > now) put(COMPUTE, STALLS, now, link, layer, expert)
        now = Math.max(now, link)
        if (this.run.model.access(event, expert) >= 0) put(COMPUTE, COMPUTES, now, ++now, layer, expert)
      }
      for (const i of ahead) {
        const kind = this.run.guess[i] & 2 ? GUESS_USED : GUESS_WASTED
        put(LINK, kind, link, link + 3, Math.floor(this.run.came[i] / experts), this.run.came[i] % experts)
        link += 3
      }
    }
    const span = Math.max(now, 1)
    for (const one of out) {
      one.start = Math.min(one.start / span, 1)
      one.end = Math.min(one.end / span, 1)
    }
    return out.filter((one) => one.end > one.start)
  }

  // ms that compute waits in a pass, null where the run has no times; how many experts cross on demand, and
  // ahead.
  waits(pass) {
    let share = 0,
      copies = 0,
      ahead = 0
    for (const one of this.segments(pass)) {
      if (one.lane === LINK && one.kind === DEMANDED) copies++
      else if (one.lane === LINK) ahead++
      else if (one.kind === STALLS) share += one.end - one.start
    }
    return { ms: this.wall && this._at ? share * this.wall[pass] : null, copies, ahead }
  }

  // When each cell's copy begins and ends in a pass: cell -> [start, end]
  crossings(pass) {
    const out = new Map()
    for (const one of this.segments(pass)) {
      if (one.lane === LINK) out.set(one.layer * this.run.model.experts + one.expert, one)
    }
    return out
  }
}
