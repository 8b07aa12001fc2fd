// Keys that press a button of the page, wherever the focus is, unless something is being typed. data: { buttons: { key: button } }
// Listens before Streamlit does, whose own R draws the page anew.

const listeners = new WeakMap()

function typing(event) {
  const target = event.composedPath()[0]
  return target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.getAttribute?.("role") === "combobox"
}

export default function (component) {
  const { data, parentElement } = component
  window.removeEventListener("keydown", listeners.get(parentElement), true)
  const listen = (event) => {
    const name = data.buttons[event.key.toLowerCase()]
    if (!name || event.ctrlKey || event.metaKey || event.altKey || typing(event)) return
    const button = document.querySelector(`.st-key-${name} button`)
    if (!button) return
    event.preventDefault()
    event.stopImmediatePropagation()
    button.click()
  }
  listeners.set(parentElement, listen)
  window.addEventListener("keydown", listen, true)
  return () => window.removeEventListener("keydown", listen, true)
}
