// The trace as the payload brings it: its text, and which experts every event needs.
// An event is one MoE layer in one forward pass; its number is pass x layers + layer. A cell is one expert of
// one layer; its number is layer x experts + expert.

class Model {
  constructor(payload) {
    this.payload = payload
    Object.assign(this, payload.shape) // layers, experts, k, passes, tokens
    this.cells = this.layers * this.experts
    this.texts = payload.texts
    this.tokenAt = sums(unpack(payload.counts)) // first token of each pass
    this.phase = unpack(payload.phase)
    this.needAt = sums(unpack(payload.needs.counts)) // first access of each event
    this.need = unpack(payload.needs.experts) // the expert of each access
    this.eventOf = new Int32Array(this.need.length)
    const cellOf = new Int32Array(this.need.length)
    for (let event = 0; event + 1 < this.needAt.length; event++) {
      const base = (event % this.layers) * this.experts
      for (let i = this.needAt[event]; i < this.needAt[event + 1]; i++) {
        this.eventOf[i] = event
        cellOf[i] = base + this.need[i]
      }
    }
    this.uses = grouped(cellOf, this.cells)
    // events that need each cell, ascending
    this.usedAt = this.uses.items.map((access) => this.eventOf[access])
    this.runs = payload.runs.map((raw) => new Run(this, raw))
    this.needed = new Uint32Array(this.passes) // accesses of each pass
    for (let pass = 0; pass < this.passes; pass++) {
      this.needed[pass] = this.needAt[(pass + 1) * this.layers] - this.needAt[pass * this.layers]
    }
    this.bound = payload.bound && { ...payload.bound, hits: unpack(payload.bound.hits) }
    this.domains = payload.domains && {
      names: payload.domains.names,
      nearest: unpack(payload.domains.nearest),
      around: payload.domains.around, // tokens whose experts tell the domain of the one in their middle
    }
    this.changes = payload.changes
    const decoded = this.phase.indexOf(1)
    this.promptEnd = decoded < 0 ? this.passes : decoded // the first pass after the prompt
  }

  passOf(token) {
    return above(this.tokenAt, token) - 1
  }

  // What a pass is called: "the prompt", "token 12"; where it takes in several tokens, "pass 12".
  nameOf(pass) {
    const { phrases } = this.payload
    if (pass < this.promptEnd)
      return this.promptEnd === 1 ? phrases["at prompt"] : say(phrases["at prompt pass"], { n: pass })
    return say(phrases[this.tokenAt[pass + 1] - this.tokenAt[pass] > 1 ? "at pass" : "at token"], { n: pass })
  }

  // The access of an expert at an event; -1 where the event does not need it.
  access(event, expert) {
    for (let i = this.needAt[event]; i < this.needAt[event + 1]; i++) if (this.need[i] === expert) return i
    return -1
  }

  // The event that needs a cell last before `event`, or first after it; -1 where there is none.
  lastUse(cell, event) {
    const i = above(this.usedAt, event - 1, this.uses.at[cell], this.uses.at[cell + 1]) - 1
    return i >= this.uses.at[cell] ? this.usedAt[i] : -1
  }

  nextUse(cell, event) {
    const i = above(this.usedAt, event, this.uses.at[cell], this.uses.at[cell + 1])
    return i < this.uses.at[cell + 1] ? this.usedAt[i] : -1
  }

  // Share of needed experts that were there, at each pass: over the last `window` passes and over all so far.
  // The prompt needs many experts at once and would hide the first tokens: the window begins anew after it.
  ratios(hits, window) {
    const recent = new Float32Array(this.passes)
    const all = new Float32Array(this.passes)
    let seen = 0,
      met = 0,
      lately = 0,
      latelyMet = 0
    for (let pass = 0; pass < this.passes; pass++) {
      seen += this.needed[pass]
      met += hits[pass]
      if (pass === this.promptEnd) lately = latelyMet = 0
      lately += this.needed[pass]
      latelyMet += hits[pass]
      if (pass - window >= (pass < this.promptEnd ? 0 : this.promptEnd)) {
        lately -= this.needed[pass - window]
        latelyMet -= hits[pass - window]
      }
      recent[pass] = latelyMet / (lately || 1)
      all[pass] = met / (seen || 1)
    }
    return { recent, all }
  }
}
