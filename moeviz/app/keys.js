// Keys that press a button of the page, wherever the focus is, unless something is being typed; and files
// that are dropped anywhere on a page that takes files; menus that were used by mouse give the keys back; and
// what draws charts is fetched while nothing else is to be done. moevizKeys({ page: its title,
// buttons: { key: button }, soon: [addresses of scripts] }) says which, for every page that is drawn. Listens
// from the first page's first element until the tab is closed, over pages and pictures, and before Streamlit
// does, whose own R draws the page anew. What is pressed or dropped before the page has what it is for waits
// until it has. `data-keys-of` of the document says whose keys are heard.

window.moevizKeys ??= (() => {
  let buttons = {} // of the page that was drawn last, or is being drawn
  let waiting = null // observer for a button or a place for files, which a key or a drop came before

  function typing(event) {
    const target = event.composedPath()[0]
    const field = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)
    return target.isContentEditable || field || target.getAttribute?.("role") === "combobox"
  }

  function isOver(event, element) {
    return event.composedPath().some((one) => one.dataset?.testid === element)
  }

  // A skeleton stands for what waits for its own script to be fetched.
  function beingDrawn() {
    const app = document.querySelector("[data-testid=stApp]")
    if (app?.dataset.testScriptState !== "notRunning") return true
    return Boolean(document.querySelector("[data-testid=stSkeleton]"))
  }

  // Gives act what find finds: now, or while the page is still being drawn, once it is there. What is asked
  // for then takes the place of what waits.
  function once(find, act) {
    waiting?.disconnect()
    if (find()) return act(find())
    if (!beingDrawn()) return
    const observer = new MutationObserver(() => {
      const found = find()
      if (found || !beingDrawn()) observer.disconnect()
      if (found) act(found)
    })
    const attributeFilter = ["data-test-script-state"]
    observer.observe(document.body, { subtree: true, childList: true, attributeFilter })
    waiting = observer
  }

  function press(event) {
    const name = buttons[event.key?.toLowerCase()]
    if (!name || event.ctrlKey || event.metaKey || event.altKey || typing(event)) return
    const find = () => document.querySelector(`.st-key-${name} button`)
    if (!find() && !beingDrawn()) return
    event.preventDefault()
    event.stopImmediatePropagation()
    once(find, (button) => button.click())
  }

  // The link keeps what a page is set to, and Streamlit makes a step for Back of each change of it: after
  // twenty moves of the cursor the twenty-first press of Back left the page, since a page goes on as it was
  // set. So only another page is a step.
  const push = history.pushState
  history.pushState = function (state, title, url) {
    const stays = new URL(url ?? "", location.href).pathname === location.pathname
    return (stays ? history.replaceState : push).call(this, state, title, url)
  }

  const uploader = () => document.querySelector(".st-key-upload input[type=file]")

  // Where a page takes no files, neither does the browser, which would leave the app for the file.
  function over(event) {
    if (!event.dataTransfer?.types.includes("Files")) return
    event.preventDefault()
    if (!uploader() && !beingDrawn()) event.dataTransfer.dropEffect = "none"
  }

  function drop(event) {
    const files = event.dataTransfer?.files
    if (!files?.length || isOver(event, "stFileUploaderDropzone")) return
    if (!uploader() && !beingDrawn()) return
    event.preventDefault()
    once(uploader, (input) => {
      input.files = files
      input.dispatchEvent(new Event("change", { bubbles: true }))
    })
  }

  // On a phone the pages' menu lies over the page: it is closed once a page was chosen there.
  function choose(event) {
    if (!isOver(event, "stSidebarNavLink")) return
    const side = document.querySelector("[data-testid=stSidebar]")
    const close = side.querySelector("[data-testid=stSidebarCollapseButton] button")
    if (side.clientWidth > window.innerWidth / 2) close?.click()
  }

  // A menu that was opened by mouse leaves the keys to the page when it is closed, or something was chosen in
  // it. Who came to it by keyboard goes on from there.
  let byMouse = false

  // Once the menu has done with what was pressed.
  function leave(chosen) {
    const here = document.activeElement
    const menu = here?.closest?.("[data-testid=stSelectbox], [data-testid=stPopover]")
    if (byMouse && menu && (chosen || !menu.querySelector("[aria-expanded=true]"))) here.blur()
  }

  function point(event) {
    const chosen = event.type === "click" && event.composedPath().some((one) => one.role === "option")
    if (event.type === "pointerdown") byMouse = true
    else if (event.key === "Tab") byMouse = false
    else if (event.type === "click" || event.key === "Escape") setTimeout(() => leave(chosen))
  }

  for (const [name, does] of Object.entries({ keydown: press, dragover: over, drop, click: choose }))
    window.addEventListener(name, does, true)
  for (const name of ["pointerdown", "click", "keydown"]) window.addEventListener(name, point, true)

  // The first chart would wait for 5 MB of script to be fetched and read: it is done when nothing else is to
  // be done, before anyone asks for a page with a chart. A script that does not come is asked for again by
  // who needs it. Reading one holds up what is drawn meanwhile, so the page's own picture comes first.
  const PICTURE_FIRST = 1000 // ms

  function fetchSoon(scripts) {
    const idle = window.requestIdleCallback ?? setTimeout
    setTimeout(() => {
      for (const script of scripts) idle(() => import(new URL(script, document.baseURI)).catch(() => {}))
    }, PICTURE_FIRST)
  }

  return (data) => {
    buttons = data.buttons
    document.documentElement.dataset.keysOf = data.page
    document.querySelector("[data-testid=stExpandSidebarButton]")?.setAttribute("aria-label", "Pages")
    fetchSoon(data.soon)
  }
})()
