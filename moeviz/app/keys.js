// Keys that press a button of the page, wherever the focus is, unless something is being typed; and files that are dropped anywhere on a
// page that takes files; and what draws charts is fetched while nothing else is to be done.
// data: { buttons: { key: button }, soon: [addresses of scripts] }
// Listens before Streamlit does, whose own R draws the page anew.

const closers = new WeakMap()

function typing(event) {
  const target = event.composedPath()[0]
  return target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.getAttribute?.("role") === "combobox"
}

function uploader() {
  return document.querySelector(".st-key-upload input[type=file]")
}

function over(event) {
  if (uploader()) event.preventDefault()
}

function drop(event) {
  const input = uploader()
  if (!input || !event.dataTransfer?.files.length || event.composedPath().some((one) => one.dataset?.testid === "stFileUploaderDropzone")) return
  event.preventDefault()
  input.files = event.dataTransfer.files
  input.dispatchEvent(new Event("change", { bubbles: true }))
}

function listening(buttons) {
  const press = (event) => {
    const name = buttons[event.key.toLowerCase()]
    if (!name || event.ctrlKey || event.metaKey || event.altKey || typing(event)) return
    const button = document.querySelector(`.st-key-${name} button`)
    if (!button) return
    event.preventDefault()
    event.stopImmediatePropagation()
    button.click()
  }
  const heard = { keydown: press, dragover: over, drop }
  for (const [name, does] of Object.entries(heard)) window.addEventListener(name, does, true)
  return () => {
    for (const [name, does] of Object.entries(heard)) window.removeEventListener(name, does, true)
  }
}

// The first chart would wait for 5 MB of script to be fetched and read: it is done when nothing else is to be done, before anyone asks for
// a page with a chart. A script that does not come is asked for again by who needs it. Reading one holds up what is drawn meanwhile, so the
// page's own picture comes first.
const PICTURE_FIRST = 1000 // ms

function fetchSoon(scripts) {
  const idle = window.requestIdleCallback ?? setTimeout
  setTimeout(() => {
    for (const script of scripts) idle(() => import(new URL(script, document.baseURI)).catch(() => {}))
  }, PICTURE_FIRST)
}

export default function (component) {
  const { data, parentElement } = component
  fetchSoon(data.soon)
  closers.get(parentElement)?.()
  closers.set(parentElement, listening(data.buttons))
  return () => {
    closers.get(parentElement)?.()
    closers.delete(parentElement)
  }
}
