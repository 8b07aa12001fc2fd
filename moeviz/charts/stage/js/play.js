// Plays: both boards token by token, or each at the speed of its own times.

const RACE = 30 // seconds that the slower board takes for the whole text

class Player extends Cursor {
  toggle() {
    if (this.playing) {
      this.stop()
      this.settle()
      this.tell()
      return
    }
    if (this.quiet) return
    const last = this.model.passes - 1
    if (this.pass >= last) this.pass = 0
    this.layer = null
    this.playing = true
    this.apart = this.speed === "times" && this.boards.every((board) => board.run.clock.wall)
    this.phase = 0
    this.time = this.apart ? this.boards.reduce((most, board) => Math.max(most, this.began(board)), 0) : 0
    this.ended = false
    this.dirty = true
  }

  // While the host measures nothing moves by itself: drawing would take the processor from what is measured.
  get quiet() {
    return this.model.payload.actions.some((one) => one.quiet)
  }

  began(board) {
    return this.pass ? board.run.clock.end[this.pass - 1] : 0
  }

  stop() {
    this.playing = false
    this.apart = false
    this.pace = null
    this.dirty = true
  }

  setSpeed(value) {
    this.speed = value
    if (!this.playing) return this.tell()
    this.stop()
    this.settle()
    this.toggle()
  }

  tick(now) {
    this.request = requestAnimationFrame(this.tick)
    const passed = Math.min((now - (this.before ?? now)) / 1000, 0.25)
    this.before = now
    if (this.playing) this.advance(passed)
    // a window that goes to another screen may keep its size, and get finer or coarser pixels
    if (this.resized || this.sharpness !== window.devicePixelRatio) this.refit()
    if (this.dirty) this.draw()
  }

  advance(passed) {
    const last = this.model.passes - 1
    this.dirty = true
    if (this.apart) return this.race(passed)
    // "times" stays chosen where a text has none, and plays at the usual pace
    this.phase += passed * (this.pace ?? (Number(this.speed) || 4))
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
    for (const board of this.boards)
      Object.assign(board, { pass: this.pass, t: this.still ? 1 : Math.min(this.phase, 1) })
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
    for (const board of this.boards)
      if (board.run.clock.wall) most = Math.max(most, board.run.clock.wall[this.apart ? board.pass : pass])
    return most || 1
  }
}
