// A drawing that moeviz made itself, in the page's own ink. data: { svg }

export default function (component) {
  const { data, parentElement } = component
  parentElement.querySelector(".drawing").innerHTML = data.svg
}
