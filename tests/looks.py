"""What somebody sees who looks at a page: text that is too small, that something cuts off, or that lies on
other text.

    assert faults(page, least=22) == []
"""

from __future__ import annotations

import time
from collections.abc import Callable

from playwright.sync_api import Page

PATIENCE = 60.0  # seconds in which a page has become what it will be, on a busy machine too

_FAULTS = """least => {
  const up = element => element.parentElement ?? element.getRootNode().host
  const seen = element => {
    for (let one = element; one; one = up(one)) {
      const { visibility, opacity, clip, clipPath } = getComputedStyle(one)
      if (visibility === "hidden" || opacity === "0") return false
      if (clip !== "auto" || clipPath === "inset(50%)") return false // for screen readers alone
    }
    return true
  }
  const roots = [document.body]
  for (const root of roots)
    for (const one of root.querySelectorAll("*")) if (one.shadowRoot) roots.push(one.shadowRoot)
  const wrong = new Set(), boxes = []
  for (const root of roots) {
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT)
    for (let node; (node = texts.nextNode()); ) {
      const element = node.parentElement, text = node.data.trim()
      const range = document.createRange()
      range.selectNodeContents(node)
      const rects = [...range.getClientRects()].filter(one => one.width > 1 && one.height > 1)
      // in the page itself, in letters: icons and the signs of cells have none
      if (!rects.length || !/[\\p{L}\\p{N}]/u.test(text)) continue
      if (element.closest("script, style, .heatmap-label")) continue
      if (/Material/.test(getComputedStyle(element).fontFamily) || !seen(element)) continue
      if (root === document.body && !element.closest("[data-testid=stMain]")) continue
      const scale = element.getScreenCTM?.()
      const size = parseFloat(getComputedStyle(element).fontSize) * (scale ? Math.hypot(scale.a, scale.b) : 1)
      if (size < least - 0.05) wrong.add(`${size.toFixed(1)} px: ${text}`)
      if (element.closest("[transform*=rotate]")) continue // its box is larger than it
      for (const rect of rects) {
        let inside = rect.bottom > 0 && rect.top < innerHeight
        for (let one = element; one && one !== document.body; one = up(one)) {
          const { overflowX, overflowY } = getComputedStyle(one), box = one.getBoundingClientRect()
          if (/auto|scroll/.test(overflowX + overflowY)) {
            inside &&= Math.min(rect.bottom, box.bottom) - Math.max(rect.top, box.top) > 0.7 * rect.height
            break // what moves is read by moving it
          }
          const out = Math.max(box.left - rect.left, rect.right - box.right)
          if (overflowX !== "visible" && out > 2) wrong.add(`cut: ${text}`)
        }
        if (inside) boxes.push({ rect, text, element })
      }
    }
  }
  boxes.forEach((a, n) => boxes.slice(n + 1).forEach(b => {
    if (a.element.contains(b.element) || b.element.contains(a.element)) return
    const wide = Math.min(a.rect.right, b.rect.right) - Math.max(a.rect.left, b.rect.left)
    const high = Math.min(a.rect.bottom, b.rect.bottom) - Math.max(a.rect.top, b.rect.top)
    if (wide > 2 && high > 0.35 * Math.min(a.rect.height, b.rect.height))
      wrong.add(`on each other: ${a.text} | ${b.text}`)
  }))
  return [...wrong].map(one => one.slice(0, 120))
}"""


def faults(page: Page, least: float) -> list[str]:
    """Of the page; `least`: px that the smallest text may have."""
    return lasting(page, lambda: list(page.evaluate(_FAULTS, least)))


def lasting(page: Page, wrong: Callable[[], list[str]]) -> list[str]:
    """What is wrong with a page, and stays so: a layout follows a new size, or a colour fades, some pictures
    later, which on a busy machine is seconds later.
    """
    begun = time.monotonic()
    while (found := wrong()) and time.monotonic() - begun < PATIENCE:
        page.wait_for_timeout(250)
    return found
