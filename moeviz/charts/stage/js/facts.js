// What can be said of one expert at one event: the stories that the payload brings, and what the trace itself
// tells.

// Why victims left, as moeviz.numbers.explain told it.
class Stories {
  constructor(run, raw) {
    for (const name of ["load", "why", "belady", "regret", "counts", "cell", "status", "says", "share"])
      this[name] = unpack(raw[name])
    this.words = raw.words
    this.at = sums(this.counts)
    this.of = new Map()
    this.load.forEach((load, i) => this.of.set(`${load} ${this.cell[this.at[i]]}`, i))
  }

  // Loads for which somebody left whom belady would not have dropped.
  regretted() {
    return new Set(Array.from(this.load).filter((_, i) => this.belady[i] !== this.cell[this.at[i]]))
  }

  // Why a cell left for a load; null where it did not.
  tell(load, cell) {
    const i = this.of.get(`${load} ${cell}`)
    if (i === undefined) return null
    const there = []
    for (let n = this.at[i]; n < this.at[i + 1]; n++) {
      there.push({
        cell: this.cell[n],
        status: STATUSES[this.status[n]],
        says: this.words[this.says[n]],
        share: this.share[n] / 255,
      })
    }
    return { why: this.words[this.why[i]], belady: this.belady[i], regret: this.regret[i], there }
  }
}

const STATUSES = ["leaves", "could leave", "needed now", "held by a guess"]

// Everything that the story and the board show of one expert at an event of its own layer.
function factsOf(run, event, expert) {
  const model = run.model
  const layer = event % model.layers
  const cell = layer * model.experts + expert
  const access = model.access(event, expert)
  run.to(event)
  const before = run.about.keeps ? run.state[cell] : EMPTY
  const brought = run.broughtAt(cell, event)
  const taken = run.takenAt(cell, event)
  const arrival = run.lastArrival(cell, event - 1)
  const departure = run.lastDeparture(cell, event)
  const load = brought >= 0 ? brought : taken
  const victim = brought >= 0 ? run.left[brought] : taken >= 0 ? cell : -1
  return {
    layer,
    cell,
    expert,
    event,
    access,
    state: access < 0 ? before : run.outcome[access],
    brought,
    taken,
    victim,
    others: (brought >= 0 && run.others.get(brought)) || [],
    newcomer: taken >= 0 ? run.came[taken] : brought >= 0 ? cell : -1,
    guess: load >= 0 && run.guess ? run.guess[load] & 1 : 0,
    story: load >= 0 && run.story ? run.story.tell(load, victim) : null,
    arrival,
    departure,
    known: arrival >= 0 || run.started[cell] === RESIDENT,
    last: model.lastUse(cell, event),
    next: model.nextUse(cell, event),
  }
}
