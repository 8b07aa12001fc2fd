// Before the code of components that go on with what the call before made.
// Streamlit calls a component again when its data change. Where the call before has not come back yet, as
// when its script is still being read, it ends that one once it has come back, which is after the new call:
// only the end of the latest call is the component's end.

const mountings = new WeakMap()

function mounting(parentElement, end) {
  const mine = {}
  mountings.set(parentElement, mine)
  return () => {
    if (mountings.get(parentElement) === mine) end()
  }
}

