// The page: it fetches networks as they are chosen, runs them by onnxruntime-web, and searches the gallery's vectors.
// What it shows is in page.json. Nothing is sent anywhere.
"use strict";
(() => {
const SHOWN = 8; // hits in a row
const ASK_ABOVE = 10e6; // bytes of a dense network that isn't fetched without a click
const MOST_PIXELS = 2048 ** 2; // larger images are shrunk by the browser before they are embedded
const LONGEST_RATIO = 100; // of an image's sides, as in Python
const PAUSE_MS = 300; // after which a capacity counts as chosen: keys go past others, which aren't fetched
const TIMED_RUNS = 5, TIMED_MS = 250; // runs to take the median of, within about this time
const PAD_PAPER = "#f4f4f2", PAD_INK = "#1a1a1a";

const $ = (id) => document.getElementById(id);
const still = window.matchMedia("(prefers-reduced-motion: reduce)");
const fetched = { networks: 0, runtime: 0, gallery: 0 };
const sessions = new Map(); // of networks, by capacity: promises
const arrived = new Set(); // capacities whose files are here
let page, ort, vectors, thumbnails, query;
let turn = 0; // of updates: a newer one makes an older one stop
let reading = 0; // of queries, likewise

class PageError extends Error {} // one with a sentence for the visitor

// ---- Words

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
const chosen = () => page.networks[Number($("capacity").value)];
const dense = () => page.networks.at(-1);
const clean = (label) => /^U\+[0-9A-F]{4,6}$/.test(label) ? String.fromCodePoint(parseInt(label.slice(2), 16)) : label;

const named = (label, name) => !label ? name : `${clean(label)}, ${name.startsWith(`${label}/`) ? name.slice(label.length + 1) : name}`;

function say(error) {
  const notice = $("notice");
  notice.hidden = !error;
  if (!error) return;
  requestAnimationFrame(() => notice.scrollIntoView({ block: "nearest", behavior: still.matches ? "auto" : "smooth" }));
  notice.textContent = error instanceof PageError ? error.message : `Something failed: ${error.message || error}`;
  if (!(error instanceof PageError)) console.error(error);
}

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element && key !== "style") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// ---- What is fetched

async function fetchBytes(file, kind) {
  let response;
  try {
    response = await fetch(file.url, file.integrity ? { integrity: file.integrity, mode: "cors" } : {});
  } catch (error) {
    const changed = file.integrity ? ", or isn't the file that this page was made for" : "";
    throw new PageError(`${file.url} can't be fetched${changed}. Check the connection, and load the page again.`);
  }
  if (!response.ok) throw new PageError(`${file.url} can't be fetched: the host answers ${response.status}. Load the page again later.`);
  const reader = response.body.getReader(), parts = [];
  try {
    for (let part; !(part = await reader.read()).done;) {
      parts.push(part.value);
      fetched[kind] += part.value.length;
      showFetched();
    }
  } catch (error) {
    throw new PageError(`${file.url} broke off while it was fetched. Check the connection, and load the page again.`);
  }
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  if (bytes.length !== (file.bytes ?? bytes.length)) {
    throw new PageError(`${file.url} has ${bytes.length} bytes instead of ${file.bytes}. Whoever publishes this page must upload its folder again, as a whole.`);
  }
  parts.reduce((start, part) => (bytes.set(part, start), start + part.length), 0);
  return bytes;
}

function showFetched() { // once a frame
  showFetched.asked ??= requestAnimationFrame(() => {
    showFetched.asked = null;
    for (const [kind, bytes] of Object.entries(fetched)) $(`bytes-${kind}`).textContent = megabytes(bytes);
  });
}

async function loadManifest() {
  const bytes = await fetchBytes({ url: "page.json" }, "gallery");
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new PageError("page.json can't be read. Whoever publishes this page must upload its folder again, as a whole.");
  }
}

async function loadRuntime() {
  if (typeof WebAssembly !== "object") {
    throw new PageError("This browser has no WebAssembly, which runs the networks. Use a current browser, or allow it in this one.");
  }
  const [script, wasm] = await Promise.all([page.runtime.script, page.runtime.wasm].map((file) => fetchBytes(file, "runtime")));
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const module = await import(url);
  URL.revokeObjectURL(url);
  module.env.wasm.wasmBinary = wasm.buffer;
  module.env.logLevel = "error";
  module.env.wasm.numThreads = 1; // as phones have it, and as hosts without special headers allow
  return module;
}

function session(network) {
  if (!sessions.has(network.capacity)) {
    const opened = (async () => {
      const bytes = await fetchBytes(network, "networks");
      const { InferenceSession } = await ort;
      try {
        return await InferenceSession.create(bytes, { executionProviders: ["wasm"], logSeverityLevel: 3 });
      } catch (error) {
        throw new PageError(`${network.url} can't be run in this browser (${error.message || error}).`);
      }
    })();
    opened.then(() => { arrived.add(network.capacity); showSizes(); }, () => sessions.delete(network.capacity));
    sessions.set(network.capacity, opened);
  }
  return sessions.get(network.capacity);
}

async function loadVectors() {
  const halves = new DataView((await fetchBytes(page.gallery.vectors, "gallery")).buffer);
  const values = new Float32Array(halves.byteLength / 2);
  for (let n = 0; n < values.length; n++) {
    const bits = halves.getUint16(2 * n, true), exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    values[n] = bits & 0x8000 ? -size : size;
  }
  return values;
}

async function loadThumbnails() {
  const bytes = await fetchBytes(page.gallery.thumbnails, "gallery");
  let start = 0;
  return page.gallery.sizes.map((size) =>
    URL.createObjectURL(new Blob([bytes.subarray(start, (start += size))], { type: "image/webp" })));
}

// ---- From an image to what is found

async function decode(blob, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch (error) {
    throw new PageError(`${name} isn't an image that this browser can read. Choose another JPEG, PNG or WebP file.`);
  }
  const { width, height } = bitmap;
  if (Math.max(width, height) > LONGEST_RATIO * Math.min(width, height)) {
    throw new PageError(`${name} has ${width} x ${height} pixels: the longer side may have at most ${LONGEST_RATIO} times the pixels of the shorter one. Crop it.`);
  }
  return bitmap;
}

function pixelsOf(bitmap) {
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height))); // the area, as a long side alone says little
  const width = Math.max(1, Math.round(bitmap.width * scale)), height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // transparent images lie on white, as they do in Python
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data, rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return { rgb, width, height };
}

async function embed(pixels, network) {
  const opened = await session(network), { Tensor } = await ort;
  const image = new Tensor("uint8", pixels.rgb, [pixels.height, pixels.width, 3]);
  return (await opened.run({ image }, ["pooler_output"])).pooler_output.data;
}

async function time(pixels, network) { // after a run, which also prepared
  const times = [], end = performance.now() + TIMED_MS;
  do {
    const began = performance.now();
    await embed(pixels, network);
    times.push(performance.now() - began);
  } while (times.length < TIMED_RUNS && performance.now() < end);
  return times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
}

function search(embedding, leftOut) {
  const dim = page.gallery.dim, found = [];
  for (let row = 0; row < page.gallery.names.length; row++) {
    if (row === leftOut) continue;
    let score = 0;
    for (let n = 0, at = row * dim; n < dim; n++) score += vectors[at + n] * embedding[n];
    found.push({ row, score });
  }
  return found.sort((a, b) => b.score - a.score).slice(0, SHOWN);
}

// ---- The query

async function useBlob(blob, name, { label = null, row = null, example = null } = {}) {
  const mine = ++reading;
  say(null);
  let bitmap;
  try {
    bitmap = await decode(blob, name);
  } catch (error) {
    if (mine === reading) keepQuery(error);
    return;
  }
  if (mine !== reading) return;
  if (query?.url) URL.revokeObjectURL(query.url);
  query = { pixels: pixelsOf(bitmap), label, row, name, url: URL.createObjectURL(blob) };
  showQuery(example, Math.max(bitmap.width, bitmap.height) <= 64);
  await update();
}

function showQuery(example, small) {
  showPad(false);
  const image = $("query-image");
  image.src = query.url;
  image.alt = query.label ? `Query: ${clean(query.label)}` : `Query: ${query.name}`;
  image.classList.toggle("small", small);
  image.hidden = false;
  $("query-caption").textContent = named(query.label, query.name);
  for (const button of $("examples").children) button.setAttribute("aria-pressed", String(button === example));
}

async function useExample(example, button) {
  const mine = ++reading;
  say(null);
  let bytes;
  try {
    bytes = await fetchBytes(example, "gallery");
  } catch (error) {
    if (mine === reading) keepQuery(error);
    return;
  }
  if (mine === reading) await useBlob(new Blob([bytes]), example.name, { ...example, example: button });
}

function keepQuery(error) { // a new one can't be read: what was found by the one before stays, if there is one
  if (query) say(error);
  else giveUp(error);
}

// ---- Drawing

const strokes = []; // each a list of points

function showPad(on) {
  $("pad").hidden = $("clear").hidden = !on;
  $("pad").tabIndex = on ? 0 : -1;
  $("query-image").hidden = on;
  $("draw").setAttribute("aria-pressed", String(on));
  $("stage").classList.toggle("drawing", on);
  $("stage-hint").hidden = !on || strokes.length > 0;
}

function startDrawing() {
  strokes.length = 0;
  if (query?.url) URL.revokeObjectURL(query.url);
  query = null;
  ++reading;
  ++turn;
  say(null);
  markStale();
  $("agreement").textContent = "What each network finds stands here after the first line.";
  $("main").setAttribute("aria-busy", "false");
  for (const button of $("examples").children) button.setAttribute("aria-pressed", "false");
  paint($("pad"), strokes, 384, 24);
  showPad(true);
  const some = [...new Set(page.gallery.labels.filter(Boolean).map(clean))].slice(0, 12);
  $("stage-hint").textContent = some.length ? `Draw here, such as one of ${some.join(" ")}` : "Draw here";
  $("query-caption").textContent = "Drawn in this page";
  $("pad").focus();
}

function paint(canvas, lines, side, width) {
  const context = canvas.getContext("2d");
  context.fillStyle = PAD_PAPER;
  context.fillRect(0, 0, side, side);
  Object.assign(context, { strokeStyle: PAD_INK, lineWidth: width, lineCap: "round", lineJoin: "round" });
  for (const line of lines) {
    context.beginPath();
    context.moveTo(...line[0]);
    for (const point of line.length > 1 ? line.slice(1) : line) context.lineTo(...point);
    context.stroke();
  }
}

function drawingAsSeen() { // moved into the middle and scaled, as characters of the gallery are
  const side = 192, points = strokes.flat(), xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min(2, (side * 0.66) / Math.max(right - left, bottom - top, 1));
  const place = ([x, y]) => [side / 2 + (x - (left + right) / 2) * scale, side / 2 + (y - (top + bottom) / 2) * scale];
  const canvas = make("canvas", { width: side, height: side });
  paint(canvas, strokes.map((line) => line.map(place)), side, 14);
  return canvas;
}

function listenToPad() {
  const pad = $("pad");
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
  };
  let drawing = false;
  pad.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    pad.setPointerCapture(event.pointerId);
    drawing = true;
    strokes.push([at(event)]);
    $("stage-hint").hidden = true;
    paint(pad, strokes, 384, 24);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    strokes.at(-1).push(at(event));
    paint(pad, strokes, 384, 24);
  });
  const end = () => {
    if (!drawing) return;
    drawing = false;
    query = { pixels: pixelsOf(drawingAsSeen()), label: null, row: null, name: "Drawing" };
    update();
  };
  pad.addEventListener("pointerup", end);
  pad.addEventListener("pointercancel", end);
}

// ---- What is shown

function begin() { // another query or capacity: what stands there isn't what it finds
  say(null);
  markStale();
  $("main").setAttribute("aria-busy", "true");
  return ++turn;
}

function markStale() {
  for (const row of $("pair").querySelectorAll(".row")) row.classList.add("stale");
}

async function update() {
  if (!query) return;
  const mine = begin(), network = chosen();
  let found = null;
  try {
    if (!arrived.has(network.capacity)) $("agreement").textContent = "Fetching the network …";
    found = await findBy("chosen", network, mine);
    const ask = dense().bytes > ASK_ABOVE && !sessions.has(1);
    $("fetch-dense").hidden = !ask;
    const reference = ask || !found ? null : await findBy("dense", dense(), mine);
    if (mine !== turn) return;
    compare(found, reference);
    await showTime("chosen", network, mine);
    if (reference) await showTime("dense", dense(), mine);
  } catch (error) {
    if (mine === turn) giveUp(error, found);
  } finally {
    if (mine === turn) $("main").setAttribute("aria-busy", "false");
  }
}

async function findBy(which, network, mine) { // null if something newer was asked for on the way
  const embedding = await embed(query.pixels, network);
  [vectors, thumbnails] = await Promise.all([vectors, thumbnails]);
  if (mine !== turn) return null;
  const found = search(embedding, query.row);
  $(`${which}-cost`).textContent = megabytes(network.bytes);
  showHits(which, found);
  return found;
}

async function showTime(which, network, mine) {
  if (mine !== turn) return;
  const ms = await time(query.pixels, network);
  if (mine === turn) $(`${which}-cost`).textContent = `${megabytes(network.bytes)}, ${milliseconds(ms)}`;
}

function giveUp(error, found = null) { // what the chosen network found stays, if it did
  say(error);
  for (const which of found ? ["dense"] : ["chosen", "dense"]) {
    showHits(which, []);
    $(`${which}-cost`).textContent = "";
  }
  drawLinks();
  $("legend").textContent = "";
  $("agreement").textContent = `${found ? "Nothing can be compared" : "Nothing was found"}, because of the error above.`;
  $("main").setAttribute("aria-busy", "false");
}

function showHits(which, found) {
  $(`${which}-hits`).parentElement.classList.remove("stale");
  $(`${which}-hits`).replaceChildren(...found.map(({ row, score }) => {
    const label = page.gallery.labels[row], name = page.gallery.names[row];
    const right = query.label !== null && label === query.label;
    const words = `${named(label, name)}${right ? ", of the query's class" : ""}`;
    const picture = make("img", { src: thumbnails[row], alt: words, title: words, draggable: false });
    const text = make("span", { className: "text" },
      make("b", {}, label ? clean(label) : name), " ", make("span", { className: "score" }, score.toFixed(2)));
    return make("li", { className: right ? "right" : "", "data-row": row, "data-score": score }, picture, text);
  }));
}

function compare(found, reference) {
  const places = reference?.map(({ row }) => row);
  const common = reference ? found.filter(({ row }) => places.includes(row)).length : 0;
  if (reference) {
    const first = found[0].row === reference[0].row ? "the same one first" : "another one first";
    $("agreement").replaceChildren(make("strong", {}, `${common} of ${reference.length}`),
      ` are what the dense network finds, with ${first}.`);
  } else {
    $("agreement").textContent = "Fetch the dense network to compare.";
    showHits("dense", []);
    $("dense-cost").textContent = "not fetched yet";
    $("fetch-dense").textContent = `Fetch the dense network, ${megabytes(dense().bytes)}`;
  }
  $("legend").textContent = (query.label ? "A tick marks images of the query's class. " : "")
    + (reference ? "Lines join the same image in both. " : "") + "Times are for one image, in this browser.";
  requestAnimationFrame(drawLinks);
}

function drawLinks() {
  const links = $("links"), box = $("pair").getBoundingClientRect();
  const rows = ["chosen", "dense"].map((which) => [...$(`${which}-hits`).children]);
  const sideways = getComputedStyle($("pair")).getPropertyValue("--links").trim() === "sideways";
  links.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
  const paths = rows[0].flatMap((item) => {
    const twin = rows[1].find((other) => other.dataset.row === item.dataset.row);
    item.classList.toggle("common", Boolean(twin));
    twin?.classList.add("common");
    if (!twin) return [];
    const [a, b] = [item, twin].map((each) => each.querySelector("img").getBoundingClientRect());
    const from = sideways ? [a.right - box.left, a.top + a.height / 2 - box.top] : [a.left + a.width / 2 - box.left, a.bottom - box.top + 3];
    const to = sideways ? [b.left - box.left, b.top + b.height / 2 - box.top] : [b.left + b.width / 2 - box.left, b.top - box.top - 3];
    const middle = sideways ? (from[0] + to[0]) / 2 : (from[1] + to[1]) / 2;
    const bend = sideways ? `${middle} ${from[1]} ${middle} ${to[1]}` : `${from[0]} ${middle} ${to[0]} ${middle}`;
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M${from.join(" ")} C${bend} ${to.join(" ")}`);
    if (item.classList.contains("right")) path.classList.add("right");
    return [path];
  });
  links.replaceChildren(...paths);
}

// ---- The capacity

function setUpCapacities() {
  const slider = $("capacity"), last = page.networks.length - 2;
  slider.max = last;
  slider.value = page.networks.indexOf(page.networks.slice(0, -1).reduce((best, network) =>
    Math.abs(network.capacity - page.start) < Math.abs(best.capacity - page.start) ? network : best));
  slider.disabled = last === 0;
  const largest = Math.max(...page.networks.map(({ bytes }) => bytes));
  $("sizes").replaceChildren(...page.networks.map(({ capacity, bytes }) => make("i", {
    className: capacity === 1 ? "dense" : "", style: `--share: ${bytes / largest}`, "data-capacity": capacity,
  })));
  $("ticks").replaceChildren(...page.networks.map(({ capacity }) => make("span", {}, capacity === 1 ? "dense" : String(capacity))));
  for (const id of ["sizes", "ticks"]) $(id).style.setProperty("--count", page.networks.length);
  slider.style.setProperty("--count", page.networks.length);
  slider.addEventListener("input", showCapacity);
  slider.addEventListener("change", choose); // when it is let go, so that nothing on the way is fetched
  showCapacity();
}

function choose() {
  clearTimeout(choose.later);
  if (!query) return;
  begin(); // an older update stops, whose network isn't the chosen one
  choose.later = setTimeout(update, arrived.has(chosen().capacity) ? 0 : PAUSE_MS);
}

function showCapacity() {
  const { capacity, bytes } = chosen(), slider = $("capacity");
  $("reading").textContent = String(capacity);
  $("reading-of").textContent = `of the ${page.unit}, ${megabytes(bytes)} of ${megabytes(dense().bytes)}`;
  $("chosen-name").textContent = `${capacity} of the ${page.unit}`;
  slider.setAttribute("aria-valuetext", `${capacity} of the ${page.unit}, ${megabytes(bytes)}`);
  showSizes();
  for (const row of document.querySelectorAll("#matrix-table tr[data-capacity]")) {
    row.classList.toggle("chosen", Number(row.dataset.capacity) === capacity);
  }
}

function showSizes() {
  for (const bar of $("sizes").children) {
    const capacity = Number(bar.dataset.capacity);
    bar.classList.toggle("arrived", arrived.has(capacity));
    bar.classList.toggle("chosen", capacity === chosen().capacity);
  }
}

// ---- The matrix

function setUpMatrix() {
  const matrix = page.matrix;
  if (!matrix) return;
  const values = matrix.values.flat().filter((value) => value !== null);
  const low = Math.min(...values), high = Math.max(...values);
  const name = (capacity) => (capacity === 1 ? "dense" : String(capacity));
  const head = make("tr", {}, make("td"), ...matrix.galleries.map((capacity) => make("th", { scope: "col" }, name(capacity))));
  const body = matrix.queries.map((capacity, row) => make("tr", { "data-capacity": capacity },
    make("th", { scope: "row" }, name(capacity)),
    ...matrix.values[row].map((value) => {
      const heat = value === null || high === low ? 0 : (value - low) / (high - low);
      return make("td", { style: `--heat: ${heat.toFixed(3)}` },
        value === null ? "–" : (100 * value).toFixed(1));
    })));
  $("matrix-table").append(
    make("thead", {}, make("tr", {}, make("td"), make("th", { colSpan: matrix.galleries.length, scope: "colgroup", className: "side" }, "gallery embedded by")), head),
    make("tbody", {}, ...body));
  $("matrix-table").querySelector("thead td").textContent = "query by";
  $("matrix-caption").textContent = `${matrix.metric} in percent, measured when the model was trained. The framed row is the chosen capacity.`;
  $("matrix").hidden = false;
}

// ---- The whole

function setUpSources() {
  $("draw").hidden = !page.drawing;
  $("draw").addEventListener("click", startDrawing);
  $("clear").addEventListener("click", startDrawing);
  $("fetch-dense").addEventListener("click", () => {
    $("fetch-dense").hidden = true;
    session(dense()).then(update, (error) => {
      say(error);
      $("fetch-dense").hidden = false;
    });
  });
  for (const id of ["file", "camera"]) {
    $(id).addEventListener("change", ({ target }) => {
      if (target.files[0]) useBlob(target.files[0], target.files[0].name);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  const takeFrom = (list) => {
    const file = [...list].find((item) => item instanceof File);
    if (file) useBlob(file, file.name);
    return Boolean(file);
  };
  addEventListener("paste", (event) => takeFrom(event.clipboardData.files) && event.preventDefault());
  addEventListener("dragover", (event) => {
    event.preventDefault();
    $("stage").classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? $("stage").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("stage").classList.remove("over");
    takeFrom(event.dataTransfer.files);
  });
}

function setUpExamples() {
  $("examples").replaceChildren(...page.examples.map((example, number) => {
    const name = named(example.label, example.name);
    const button = make("button", { type: "button", title: name, "aria-pressed": "false" },
      make("img", { src: example.url, alt: `Example ${number + 1}: ${name}` }));
    button.addEventListener("click", () => useExample(example, button));
    return button;
  }));
}

async function main() {
  if (location.protocol === "file:") {
    throw new PageError("A browser fetches networks only from a web server: run prunnet page --serve, or put this folder on any static host.");
  }
  page = await loadManifest();
  const count = page.gallery.names.length.toLocaleString("en");
  const part = page.gallery.of > page.gallery.names.length ? ` (of ${page.gallery.of.toLocaleString("en")})` : "";
  $("lede").textContent = `${count} images${part} were embedded once, by ${page.gallery.capacity === 1 ? "the dense network" : `${page.gallery.capacity} of the network`}. `
    + `This browser embeds the query, with as much of the network as you let it carry, and searches the same vectors.`;
  $("runtime-version").textContent = page.runtime.version;
  setUpMatrix();
  setUpCapacities();
  setUpExamples();
  setUpSources();
  listenToPad();
  ort = loadRuntime();
  [vectors, thumbnails] = [loadVectors(), loadThumbnails()];
  for (const started of [ort, vectors, thumbnails]) started.catch(() => {}); // said where they are awaited
  session(chosen()).catch(() => {});
  new ResizeObserver(drawLinks).observe($("pair"));
  await useExample(page.examples[0], $("examples").firstElementChild);
}

// For the console and for tests: the embedding of an image by the network of a capacity, as a Float32Array.
window.prunnet = {
  embed: async (blob, capacity) => (await embed(pixelsOf(await decode(blob, "the image")),
    page.networks.find((network) => network.capacity === capacity))),
};
main().catch(giveUp);
})();
