// Functions for checks.py, put into a page when they are called.

const visible = (element) => element.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true });
const all = (selector) => [...document.querySelectorAll(selector)].filter(visible);
const short = (text) => JSON.stringify(text.trim().replace(/\s+/g, " ").slice(0, 60));
const labelOf = (element) =>
  element.getAttribute("aria-label") ||
  (element.getAttribute("aria-labelledby") || "").split(/\s+/).map((id) => document.getElementById(id)?.textContent || "").join(" ").trim() ||
  [...(element.labels || [])].map((label) => label.textContent).join(" ").trim() ||
  element.alt || element.textContent.trim() || element.title || "";
const called = (element) =>
  `<${element.tagName.toLowerCase()}${element.id ? " id=" + element.id : ""}> ${short(labelOf(element))}`;

const FOCUSABLE =
  "a[href], button:not([disabled]), input:not([disabled]):not([type=hidden]), select:not([disabled]), " +
  "textarea:not([disabled]), summary, [tabindex], video[controls], audio[controls]";

function pictures() {
  const broken = all("img").filter((image) => !image.complete || image.naturalWidth === 0);
  const silent = all("img, svg[role=img], canvas").filter(
    (picture) => !(picture.alt ?? picture.getAttribute("aria-label") ?? picture.textContent).trim(),
  );
  return [
    ...broken.map((image) => `did not load: ${called(image)} ${image.src.slice(0, 60)}`),
    ...silent.map((picture) => `no alternative in words: ${picture.outerHTML.slice(0, 120)}`),
  ];
}

function headings() {
  const found = all("h1, h2, h3, h4, h5, h6");
  const levels = found.map((heading) => Number(heading.tagName[1]));
  const lines = levels.filter((level) => level === 1).length === 1 ? [] : ["not exactly one h1"];
  if (levels[0] !== 1) lines.push("the first heading is no h1");
  levels.forEach((level, index) => {
    if (index && level > levels[index - 1] + 1) lines.push(`level skipped before ${called(found[index])}`);
  });
  return [...lines, ...found.filter((heading) => !heading.textContent.trim()).map((heading) => `empty ${called(heading)}`)];
}

function names() {
  const lines = [];
  if (!document.documentElement.lang) lines.push("no language");
  if (!document.title.trim()) lines.push("no title");
  if (document.querySelectorAll("main").length !== 1) lines.push("not exactly one main");
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  ids.forEach((id, index) => { if (ids.indexOf(id) !== index) lines.push(`id twice: ${id}`); });
  for (const element of all(`${FOCUSABLE}, [role=region], nav`)) {
    if (!labelOf(element)) lines.push(`no name: ${element.outerHTML.slice(0, 120)}`);
  }
  for (const link of all("a[href^='#']")) {
    if (!document.getElementById(link.hash.slice(1))) lines.push(`leads nowhere: ${called(link)} ${link.hash}`);
  }
  for (const table of all("table")) {
    if (!table.querySelector("th[scope]")) lines.push(`table without header cells: ${called(table)}`);
  }
  return lines;
}

// A colour of any CSS notation as [red, green, blue, alpha], 0 to 1, as a canvas draws it.
const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
const brush = canvas.getContext("2d", { willReadFrequently: true });
function colour(css) {
  brush.clearRect(0, 0, 1, 1);
  brush.fillStyle = css;
  brush.fillRect(0, 0, 1, 1);
  return [...brush.getImageData(0, 0, 1, 1).data].map((value) => value / 255);
}
const over = (upper, lower) => [0, 1, 2].map((i) => upper[i] * upper[3] + lower[i] * (1 - upper[3])).concat(1);

// https://www.w3.org/TR/WCAG21/#dfn-relative-luminance and #dfn-contrast-ratio
function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
function ratio(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function behind(element) {
  const layers = [];
  for (let one = element; one; one = one.parentElement) {
    const layer = colour(getComputedStyle(one).backgroundColor);
    if (layer[3]) layers.push(layer);
    if (layer[3] === 1) break;
  }
  return layers.reduceRight((lower, upper) => over(upper, lower), [1, 1, 1, 1]);
}

function opacity(element) {
  let product = 1;
  for (let one = element; one; one = one.parentElement) product *= Number(getComputedStyle(one).opacity);
  return product;
}

function contrasts(least) {
  const lines = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, option") || !visible(element)) continue;
    if (element.closest("[disabled]")) continue; // WCAG exempts what cannot be used
    const style = getComputedStyle(element);
    const ink = colour(element.closest("svg") ? style.fill : style.color);
    ink[3] *= opacity(element);
    const found = ratio(over(ink, behind(element)), behind(element));
    if (found < least) lines.add(`contrast ${found.toFixed(2)} of ${short(walker.currentNode.data)} in ${called(element)}`);
  }
  return [...lines];
}

const SVG = /^data:image\/svg\+xml;base64,/;
async function contrastsInPictures(least) {
  const lines = new Set();
  for (const image of all("img")) {
    if (!SVG.test(image.src)) continue;
    const bytes = Uint8Array.from(atob(image.src.replace(SVG, "")), (char) => char.charCodeAt(0));
    const host = document.createElement("div");
    host.style.cssText = "position: absolute; left: 0; top: 0";
    host.append(new DOMParser().parseFromString(new TextDecoder().decode(bytes), "image/svg+xml").documentElement);
    document.body.append(host);
    const svg = host.firstElementChild;
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent.trim()).map((text) => {
      const box = text.getBoundingClientRect();
      return { said: text.textContent, ink: getComputedStyle(text).fill, opacity: opacity(text), box };
    });
    svg.querySelectorAll("text").forEach((text) => text.remove());
    const drawn = new Image();
    drawn.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(svg));
    await drawn.decode();
    host.remove();
    const sheet = new OffscreenCanvas(Math.ceil(frame.width), Math.ceil(frame.height));
    const brush = sheet.getContext("2d", { willReadFrequently: true });
    brush.fillStyle = "white";
    brush.fillRect(0, 0, sheet.width, sheet.height);
    brush.drawImage(drawn, 0, 0, sheet.width, sheet.height);
    for (const { said, ink, opacity, box } of texts) {
      const x = Math.max(0, Math.floor(box.x - frame.x)), y = Math.max(0, Math.floor(box.y - frame.y));
      const { data } = brush.getImageData(x, y, Math.max(1, Math.round(box.width)), Math.max(1, Math.round(box.height)));
      const found = [];
      for (let at = 0; at < data.length; at += 4) {
        const background = [data[at] / 255, data[at + 1] / 255, data[at + 2] / 255, 1];
        const upper = colour(ink);
        upper[3] *= opacity;
        found.push(ratio(over(upper, background), background));
        if (found.length > 400) at += 4 * 16; // a sample of large boxes is enough
      }
      found.sort((a, b) => a - b);
      // The median: a thin line that crosses a word does not make it unreadable, a ground of the word's own colour does.
      const middle = found[Math.floor(found.length / 2)];
      if (middle < least) lines.add(`contrast ${middle.toFixed(2)} of ${short(said)} in the picture ${called(image)}`);
    }
  }
  return [...lines];
}

const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflowX);

function overflow() {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = all("body *").filter((element) => {
    for (let one = element.parentElement; one; one = one.parentElement) if (getComputedStyle(one).overflowX !== "visible") return false;
    return element.getBoundingClientRect().right > width + 0.5;
  });
  return [`${document.documentElement.scrollWidth} px wide in a window of ${width}: ${wide.slice(0, 5).map(called).join(", ")}`];
}

function scrollRegions() {
  return all("body *")
    .filter((element) => scrolls(element) && element.scrollWidth > element.clientWidth + 1)
    .filter((element) => element.tabIndex < 0 || !element.getAttribute("role") || !labelOf(element))
    .map((element) => `scrolls, but is no named region that Tab reaches: ${called(element)}`);
}

function cut() {
  return all("body *")
    .filter((element) => getComputedStyle(element).overflowX !== "visible" && element.scrollWidth > element.clientWidth + 1)
    .map((element) => `cut off on paper: ${called(element)}, ${element.scrollWidth} px in ${element.clientWidth}`);
}

function torn() {
  const lines = all("tr, figure, img")
    .filter((element) => element.tagName !== "IMG" || !element.closest("figure"))
    .filter((element) => getComputedStyle(element).breakInside !== "avoid")
    .map((element) => `may be torn apart between two sheets: ${called(element)}`);
  const loose = all("h2, h3").filter((heading) => getComputedStyle(heading).breakAfter !== "avoid");
  return [...lines, ...loose.map((heading) => `may stand alone at the foot of a sheet: ${called(heading)}`)].slice(0, 10);
}

const focusableNow = () => all(FOCUSABLE).filter((element) => element.tabIndex >= 0);
function focusable() {
  return focusableNow().map(called);
}

// Where the focus was last is where Tab goes on from, also when that element is gone.
function toTheStart() {
  const first = Object.assign(document.createElement("span"), { tabIndex: -1 });
  document.body.prepend(first);
  first.focus();
  first.remove();
}

function focused() {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
  const box = element.getBoundingClientRect();
  const inside = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  return [called(element), (outlined || style.boxShadow !== "none") && inside];
}
