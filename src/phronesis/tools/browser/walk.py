"""What is run inside a page to read it: its elements as they stand, in the form of `outline.Node`, and where they are."""

from __future__ import annotations

WALK = """
([root, every]) => {
  const nodes = [];
  const kept = ["href", "type", "name", "placeholder", "role", "tabindex", "onclick", "alt", "title", "aria-label", "readonly",
    "contenteditable", "class", "id", "for", "fill", "stroke", "r", "width", "height", "x", "y", "cx", "cy", "multiple",
    "disabled", "data-result"];
  const told = (e, tag, style) => {
    const found = {};
    for (const name of kept) {
      const value = e.getAttribute(name);
      if (value !== null) found[name] = value;
    }
    if (tag === "input" || tag === "textarea") found.value = String(e.value);
    if (tag === "option") { found.value = String(e.value); if (e.selected) found.selected = ""; }
    if (e.checked === true) found.checked = "";
    if (e.disabled === true) found.disabled = "";
    if (e.readOnly === true) found.readonly = "";
    if (style.cursor === "pointer" && !["a", "button", "input", "select", "label", "option", "body"].includes(tag)) {
      const above = e.parentElement ? getComputedStyle(e.parentElement).cursor : "";
      if (above !== "pointer") found.pointer = "";
    }
    if (every && !e.textContent.trim() && style.backgroundColor !== "rgba(0, 0, 0, 0)")
      found["style-color"] = style.backgroundColor;
    return found;
  };
  const walk = (e, depth) => {
    const tag = e.tagName.toLowerCase(), style = getComputedStyle(e);
    if (depth > 200 || nodes.length > 5000) return null;
    if (tag !== "option" && tag !== "optgroup" && (style.display === "none" || style.visibility !== "visible")) return null;
    if (["script", "style", "template", "noscript"].includes(tag)) return null;
    const index = nodes.length, kids = [];
    nodes.push(e);
    if (tag !== "textarea")
      for (const kid of e.childNodes) {
        if (kid.nodeType === 3) kids.push(kid.data.slice(0, 20000));
        else if (kid.nodeType === 1) { const made = walk(kid, depth + 1); if (made) kids.push(made); }
      }
    return [tag, told(e, tag, style), kids, index];
  };
  const top = document.querySelector(root) || document.body || document.documentElement;
  return {page: [document.title, walk(top, 0) || ["body", {}, [], 0]], nodes};
}
"""
"""Called with the selector of the part that is read, and whether colours are told."""
