// One board: experts x layers of one run at the cursor, with its name, its settings, its hits so far, and its
// link below.

class Board extends Cells {
  constructor(stage, number) {
    super()
    this.stage = stage
    this.number = number
    this.root = element("section", `board ${number ? "b" : "a"}`)
    this.head = element("div", "head")
    this.name = element("h2", "name")
    this.menus = element("div", "menus")
    this.counts = element("div", "counts")
    this.ratio = element("div", "ratio")
    this.head.append(this.name, this.menus, this.counts, this.ratio)
    this.canvas = element("canvas", "cells")
    this.canvas.setAttribute("role", "img")
    this.note = element("div", "note")
    this.root.append(this.head, this.canvas, this.note)
    this.sheet = new Sheet(this.canvas)
    this.ground = new Sheet(element("canvas")) // axes, and the cells that are where they were
    this.link = new Link(this)
    this.pass = 0
    this.t = 1
    this.pointer()
  }

  take(run) {
    this.run = run
    const { model } = run
    this.states = new Uint8Array(model.cells)
    this.shownAt = ""
    this.root.setAttribute("aria-label", run.about.label)
    this.pass = Math.min(this.pass, model.passes - 1)
    this.stage.transport.menus(this)
    const outcomes = ["hit", ...(run.late.some((n) => n) ? ["late hit"] : []), "miss"]
    tip(this.counts, model.payload, [...outcomes, "slot"])
    tip(this.ratio, model.payload, ["hit ratio"], model.payload.phrases["so far, in all"])
    this.numbers()
  }

  draw() {
    this.picture()
    this.sheet.clear()
    this.drawCells()
    if (this.small) this.drawSmall()
    this.drawSelected()
    this.link.draw()
    this.numbers()
  }

  numbers() {
    const { run, pass } = this
    const needs = run.soFar
    const hits = needs.hits[pass + 1],
      late = needs.late[pass + 1],
      misses = needs.misses[pass + 1]
    const ratio = `${Math.round((100 * hits) / (hits + late + misses || 1))}%`
    const { phrases } = run.model.payload
    // A language's own rules take long to load.
    const many = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, ",")
    const came = late ? say(phrases["counts late"], { late: many(late) }) : ""
    const counts = say(phrases.counts, { hits: many(hits), late: came, misses: many(misses) })
    if (this.ratio.textContent !== ratio) this.ratio.textContent = ratio
    if (this.said !== counts) {
      this.said = counts
      this.counts.replaceChildren(element("span", "", counts), element("span", "", run.about.memory))
    }
  }

  // What the picture shows, for who does not see it.
  describe() {
    const { run, pass } = this
    const values = {
      name: run.about.name,
      hits: run.hits[pass],
      late: run.late[pass],
      misses: run.misses[pass],
    }
    this.canvas.setAttribute("aria-label", say(run.model.payload.phrases["board told"], values))
  }

  pointer() {
    let from = null
    const canvas = this.canvas
    canvas.addEventListener("pointerdown", (event) => {
      from = {
        x: event.offsetX,
        y: event.offsetY,
        view: { ...(this.stage.view ?? { x: 0.5, y: 0.5, zoom: 1 }) },
        moved: false,
      }
      canvas.setPointerCapture(event.pointerId)
    })
    canvas.addEventListener("pointermove", (event) => {
      const under = this.under(event)
      if (under) canvas.title = this.hint(under)
      else this.link.hint()
      if (!from || from.view.zoom <= 1) return
      const dx = event.offsetX - from.x,
        dy = event.offsetY - from.y
      if (Math.abs(dx) + Math.abs(dy) > 4) from.moved = true
      if (from.moved) {
        this.stage.look({
          x: from.view.x - dx / this.w / this.columns,
          y: from.view.y - dy / this.h / this.rows,
          zoom: from.view.zoom,
        })
      }
    })
    canvas.addEventListener("pointerup", (event) => {
      const under = from && !from.moved && this.under(event)
      from = null
      if (!under) return
      this.stage.select({ board: this.number, ...under, kept: true })
      this.stage.toStory()
    })
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return // the page scrolls; a pinch or Ctrl zooms
        event.preventDefault()
        this.stage.zoom(event.deltaY < 0 ? 1.25 : 0.8, this.fraction(event))
      },
      { passive: false },
    )
    canvas.addEventListener("dblclick", (event) => this.stage.zoom(2, this.fraction(event)))
  }
}
