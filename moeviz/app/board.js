// The board: what every expert and slot is at one forward pass, and a strip of tokens to move along.
// Frames come from Python in pieces while a model runs, or all at once; stepping and playing happen here.
// What is missing is asked for: a component that was mounted anew in the middle of a run holds none of its earlier frames.
// data: { run, start, live, layers, experts, slots, colors, glyphs, names, frames, slotFrames, texts, prompt }
// frames: base64 uint8 [n, layers, experts], states as in moeviz/charts/board.py; slotFrames: base64 int16 [n, layers, slots].

const EMPTY = 0, HIT = 2, LATE = 3, MISS = 4
const boards = new WeakMap()

function bytes(base64) {
  const text = atob(base64)
  const out = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i)
  return out
}

class Board {
  constructor(parent) {
    this.root = parent.querySelector(".board")
    this.experts = this.root.querySelector("canvas.experts")
    this.slots = this.root.querySelector("canvas.slots")
    this.strip = this.root.querySelector(".strip")
    this.slider = this.root.querySelector("input")
    this.label = this.root.querySelector(".now")
    this.legend = this.root.querySelector(".legend")
    this.playButton = this.root.querySelector(".play")
    this.run = null
    this.drawn = 0 // pictures drawn, for the bench
    this.root.querySelector(".back").onclick = () => this.go(this.cursor - 1)
    this.root.querySelector(".on").onclick = () => this.go(this.cursor + 1)
    this.playButton.onclick = () => this.toggle()
    this.slider.oninput = () => this.go(Number(this.slider.value))
    this.listen = (event) => this.key(event)
    document.addEventListener("keydown", this.listen)
    this.observer = new ResizeObserver(() => this.draw())
    this.observer.observe(this.root)
    this.tick = this.tick.bind(this)
    this.request = requestAnimationFrame(this.tick)
  }

  close() {
    cancelAnimationFrame(this.request)
    this.observer.disconnect()
    document.removeEventListener("keydown", this.listen)
  }

  take(data, ask) {
    if (this.run !== data.run) {
      this.run = data.run
      this.frames = []
      this.slotFrames = []
      this.texts = []
      this.strip.replaceChildren()
      this.cursor = 0
      this.playing = false
      this.followed = false
      this.asked = null
    }
    this.about = data
    const size = data.layers * data.experts
    const slotSize = data.layers * data.slots * 2
    const frames = bytes(data.frames)
    const slotFrames = bytes(data.slotFrames)
    for (let i = 0; i < data.texts.length; i++) {
      if (data.start + i < this.frames.length) continue
      if (data.start + i > this.frames.length) break
      this.frames.push(frames.subarray(i * size, (i + 1) * size))
      this.slotFrames.push(new Int16Array(slotFrames.slice(i * slotSize, (i + 1) * slotSize).buffer))
      this.texts.push(data.texts[i])
      this.strip.append(this.token(this.frames.length - 1))
    }
    const lacks = data.start > this.frames.length ? this.frames.length : null
    if (lacks !== this.asked) ask(lacks === null ? null : { run: data.run, from: lacks })
    this.asked = lacks
    this.live = data.live
    this.cursor = Math.min(this.cursor, Math.max(0, this.frames.length - 1))
    if (data.live) this.followed = true
    if (!data.live && this.followed && !this.playing) this.playing = true // play out what has come
    this.slider.max = Math.max(0, this.frames.length - 1)
    this.drawLegend()
    this.draw()
  }

  token(index) {
    const element = document.createElement("span")
    element.textContent = this.texts[index].replaceAll("\n", "⏎")
    element.className = index ? "token" : "token prompt"
    const misses = this.count(index)[MISS]
    const share = misses / (this.count(index)[HIT] + this.count(index)[LATE] + misses || 1)
    element.style.setProperty("--heat", Math.round(share * 55) + "%")
    element.title = `pass ${index}: ${misses} missed`
    element.onclick = () => this.go(index)
    return element
  }

  count(index) {
    const counts = [0, 0, 0, 0, 0, 0]
    for (const state of this.frames[index]) counts[state]++
    return counts
  }

  go(index, byHand = true) {
    if (!this.frames.length) return
    if (byHand) {
      this.playing = false
      this.followed = false
    }
    this.cursor = Math.max(0, Math.min(index, this.frames.length - 1))
    this.draw()
  }

  toggle() {
    this.followed = false
    this.playing = !this.playing
    if (this.playing && this.cursor >= this.frames.length - 1) this.cursor = 0
    if (!this.playing) this.go(this.cursor)
    this.draw()
  }

  key(event) {
    const target = event.composedPath()[0]
    if (/^(TEXTAREA|SELECT)$/.test(target.tagName) || (target.tagName === "INPUT" && target !== this.slider)) return
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }
    if (event.key in moves && target !== this.slider) this.go(this.cursor + moves[event.key])
    else if (event.key === " " && target.tagName !== "BUTTON") this.toggle()
    else return
    event.preventDefault()
  }

  tick(now) {
    this.request = requestAnimationFrame(this.tick)
    const behind = this.frames ? this.frames.length - 1 - this.cursor : 0
    const running = this.playing || (this.live && this.followed)
    if (!running) return
    if (behind <= 0) {
      if (this.playing && !this.live) {
        this.playing = false
        this.followed = false
        this.go(this.cursor, false)
      }
      return
    }
    // live: catch up within one poll (a quarter of a second); replaying: four passes a second
    const pause = this.followed ? 250 / Math.max(1, behind) : 250
    if (now - (this.last || 0) >= pause) {
      this.last = now
      this.cursor += this.followed ? Math.max(1, Math.floor(behind / 15)) : 1
      this.draw()
    }
  }

  drawLegend() {
    const { colors, glyphs, names } = this.about
    if (this.legend.dataset.for === names.join()) return
    this.legend.dataset.for = names.join()
    this.legend.replaceChildren(
      ...names.map((name, state) => {
        const item = document.createElement("span")
        const swatch = document.createElement("i")
        swatch.style.background = colors[state] || "transparent"
        swatch.textContent = glyphs[state]
        item.append(swatch, name)
        return item
      }),
    )
  }

  draw() {
    if (!this.frames || !this.frames.length) return
    const { layers, experts, slots } = this.about
    const style = getComputedStyle(this.root)
    this.ink = style.color
    this.font = style.fontFamily
    this.line = style.getPropertyValue("--st-border-color") || "#8884"
    const frame = this.frames[this.cursor]
    const residents = this.slotFrames[this.cursor]
    this.grid(this.experts, experts, "expert", (layer, row) => [frame[layer * experts + row], ""])
    this.slots.parentElement.style.display = slots ? "" : "none"
    if (slots) {
      this.grid(this.slots, slots, "slot", (layer, row) => {
        const expert = residents[layer * slots + row]
        return expert < 0 ? [EMPTY, ""] : [frame[layer * experts + expert], String(expert)]
      })
    }
    for (const old of this.strip.querySelectorAll(".current")) old.classList.remove("current")
    const current = this.strip.children[this.cursor]
    if (current) {
      current.classList.add("current")
      const below = current.offsetTop + current.offsetHeight - this.strip.offsetTop - this.strip.clientHeight
      if (below > this.strip.scrollTop) this.strip.scrollTop = below + 8
      else if (current.offsetTop - this.strip.offsetTop < this.strip.scrollTop) this.strip.scrollTop = current.offsetTop - this.strip.offsetTop
    }
    const counts = this.count(this.cursor)
    const late = counts[LATE] ? `, ${counts[LATE]} late` : ""
    const what = this.cursor ? `token ${this.cursor}` : "the prompt, all its tokens at once"
    this.label.textContent = `${what} · ${counts[HIT]} hit${late}, ${counts[MISS]} missed · pass ${this.cursor + 1} of ${this.frames.length}`
    this.slider.value = this.cursor
    this.playButton.textContent = this.playing ? "⏸" : "▶"
    this.playButton.setAttribute("aria-label", this.playing ? "pause" : "play")
    this.root.dataset.step = this.cursor
    this.root.dataset.frames = this.frames.length
    this.root.dataset.drawn = ++this.drawn
  }

  grid(canvas, rows, name, at) {
    const { layers, colors, glyphs } = this.about
    const width = canvas.parentElement.clientWidth
    const left = 44, top = 34
    const cell = Math.max(2, Math.min(46, (width - left - 4) / layers))
    const high = Math.max(3, Math.min(30, Math.floor(460 / rows)))
    const height = top + rows * high + 4
    const ratio = window.devicePixelRatio || 1
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio)
      canvas.height = Math.round(height * ratio)
      canvas.style.height = height + "px"
    }
    const c = canvas.getContext("2d")
    c.setTransform(ratio, 0, 0, ratio, 0, 0)
    c.clearRect(0, 0, width, height)
    c.fillStyle = this.ink
    c.textBaseline = "middle"
    c.font = `12px ${this.font}`
    c.textAlign = "left"
    c.fillText(name + " ↓   MoE layer →", 0, 8)
    c.textAlign = "center"
    const everyColumn = Math.ceil(22 / cell), everyRow = Math.ceil(13 / high)
    for (let x = 0; x < layers; x += everyColumn) c.fillText(x, left + (x + 0.5) * cell, 25)
    c.textAlign = "right"
    for (let y = 0; y < rows; y += everyRow) c.fillText(y, left - 8, top + (y + 0.5) * high)
    c.textAlign = "center"
    const gap = Math.min(cell, high) > 8 ? 1.5 : 0.25
    for (let x = 0; x < layers; x++) {
      for (let y = 0; y < rows; y++) {
        const [state, text] = at(x, y)
        const px = left + x * cell + gap, py = top + y * high + gap
        const w = cell - 2 * gap, h = high - 2 * gap
        if (state === EMPTY) {
          c.strokeStyle = this.line
          c.lineWidth = 1
          if (gap > 1) c.strokeRect(px + 0.5, py + 0.5, w - 1, h - 1)
          continue
        }
        c.fillStyle = colors[state]
        c.fillRect(px, py, w, h)
        if (h > 12 && w > 10) {
          c.fillStyle = "#000"
          c.font = `${text ? 600 : 700} ${Math.min(15, h - 4)}px ${this.font}`
          c.fillText(text && w > 30 ? `${glyphs[state]} ${text}` : text || glyphs[state], px + w / 2, py + h / 2 + 1)
        }
      }
    }
  }
}

export default function (component) {
  const { data, parentElement, setStateValue } = component
  let board = boards.get(parentElement)
  if (!board) {
    board = new Board(parentElement)
    boards.set(parentElement, board)
  }
  board.take(data, (lacks) => setStateValue("lacks", lacks))
  return () => {
    board.close()
    boards.delete(parentElement)
  }
}
