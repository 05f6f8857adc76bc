"""The style sheet and the script of HTML reports, as text: a report is one file that opens from disk."""

STYLE = """
:root { --paper: #fbfaf7; --ink: #2b2b2b; --soft: #77746c; --line: #e6e2d8; --anchor: #e0912f; --shot: #12828a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; font-weight: 600; margin: 0 0 4px; }
h2 { font-size: 20px; font-weight: 600; margin: 40px 0 2px; overflow-wrap: anywhere; }
p, .facts { color: var(--soft); margin: 0 0 14px; max-width: 78ch; }
.facts { max-width: none; }
table { border-collapse: collapse; margin: 6px 0 18px; font-size: 15px; }
td, th { text-align: left; padding: 4px 28px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
td { overflow-wrap: anywhere; }
figure { margin: 6px 0 18px; }
figure img { width: 100%; display: block; }
canvas { display: block; width: 100%; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 22px; align-items: center; margin: 0 0 12px;
  font-size: 15px; }
.controls label { display: flex; gap: 8px; align-items: center; }
.controls input[type=range] { width: 300px; accent-color: var(--shot); }
.controls output { font-variant-numeric: tabular-nums; min-width: 21ch; }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--soft); border-radius: 6px;
  padding: 2px 12px; cursor: pointer; }
button:disabled, input:disabled + output { opacity: .45; cursor: default; }
.player { margin: 10px 0 4px; }
.player input[type=range] { flex: 1; }
.stage { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; max-width: var(--stage); }
.stage.single { grid-template-columns: 1fr; }
.stage figcaption { color: var(--soft); font-size: 14px; font-variant-numeric: tabular-nums; }
.stage figure { margin: 0; }
.key { color: var(--soft); font-size: 14px; display: flex; gap: 22px; flex-wrap: wrap; margin: 4px 0; }
.key i { display: inline-block; width: 14px; height: 14px; vertical-align: -2px; margin-right: 6px; }
.key i.heat { width: 90px; }
.bars, .sheet { cursor: pointer; }
footer { color: var(--soft); font-size: 14px; margin-top: 40px; }
"""

# Ranks come from Python (report.ranking); the script only compares them with the slider's budget.
SCRIPT = """
'use strict';
const ANCHOR = '#e0912f', SHOT = '#12828a', SOFT = '#77746c', INK = '#2b2b2b', LINE = '#e6e2d8';
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const load = data => new Promise((done, fail) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = fail;
  image.src = 'data:image/jpeg;base64,' + data;
});
function faded(image) {
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const ctx = canvas.getContext('2d');
  ctx.drawImage(image, 0, 0);
  const pixels = ctx.getImageData(0, 0, canvas.width, canvas.height), a = pixels.data;
  for (let i = 0; i < a.length; i += 4)
    a[i] = a[i + 1] = a[i + 2] = 0.3 * (0.299 * a[i] + 0.587 * a[i + 1] + 0.114 * a[i + 2]) + 0.7 * 236;
  ctx.putImageData(pixels, 0, 0);
  return canvas;
}
function heat(colours, level) {
  const stops = colours.map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));
  const x = level * (stops.length - 1), low = Math.min(Math.floor(x), stops.length - 2);
  return 'rgb(' + stops[low].map((v, i) => Math.round(v + (stops[low + 1][i] - v) * (x - low))) + ')';
}
async function viewer(root) {
  const d = JSON.parse(root.querySelector('script').textContent), per = d.H * d.W, N = d.T * per;
  const rank = new Uint32Array(bytes(d.rank).buffer), score = bytes(d.score);
  const palette = Array.from({length: 256}, (_, i) => heat(d.heat, i / 255));
  const $ = name => root.querySelector('.' + name);
  const pictures = await Promise.all(d.frames.map(load)), pale = pictures.map(faded);
  const anchors = new Set(d.anchors), shots = new Map(d.shots.map((slot, i) => [slot, i + 1]));
  let budget = d.kept, slot = d.first, map = false, timer = 0;
  const counts = () => {
    const kept = new Array(d.T).fill(0);
    for (let i = 0; i < N; i++) if (rank[i] < budget) kept[Math.floor(i / per)]++;
    return kept;
  };
  function canvas(name, aspect) {  // sized for the screen's real pixels, drawn in CSS pixels
    const element = $(name), width = element.clientWidth, ratio = window.devicePixelRatio || 1;
    const height = typeof aspect === 'function' ? aspect(width) : width / aspect;
    element.width = Math.round(width * ratio); element.height = Math.round(height * ratio);
    const ctx = element.getContext('2d');
    ctx.scale(ratio, ratio);
    return [ctx, width, height];
  }
  const easel = document.createElement('canvas'), paint = easel.getContext('2d');
  easel.width = pictures[0].naturalWidth; easel.height = pictures[0].naturalHeight;
  function tile(ctx, t, x, y, w, h) {  // composed at the frame's own size, so that patch edges stay sharp
    if (!map) paint.drawImage(pale[t], 0, 0);
    for (let r = 0; r < d.H; r++) for (let c = 0; c < d.W; c++) {
      const i = t * per + r * d.W + c;
      if (!map && rank[i] >= budget) continue;
      const left = Math.round(c * easel.width / d.W), top = Math.round(r * easel.height / d.H);
      const wide = Math.round((c + 1) * easel.width / d.W) - left;
      const tall = Math.round((r + 1) * easel.height / d.H) - top;
      if (map) { paint.fillStyle = palette[score[i]]; paint.fillRect(left, top, wide, tall); }
      else paint.drawImage(pictures[t], left, top, wide, tall, left, top, wide, tall);
    }
    ctx.drawImage(easel, x, y, w, h);
  }
  function columns() {
    const most = Math.min(d.T, 8), about = Math.max(1, Math.min(most, Math.round(Math.sqrt(1.6 * d.T * d.H / d.W))));
    const gaps = n => (n - d.T % n) % n;
    return [about, about + 1, about - 1].filter(n => n >= 1 && n <= most).sort((a, b) => gaps(a) - gaps(b))[0];
  }
  function sheetGeometry(width) {
    const n = columns(), w = Math.floor((width - (n - 1) * 8) / n), h = Math.round(w * d.H / d.W);
    return {n, w, h, x: t => (t % n) * (w + 8), y: t => Math.floor(t / n) * (h + 28) + 2,
      height: Math.ceil(d.T / n) * (h + 28) + 4};
  }
  function barGeometry(width) { return width / d.T; }
  function draw() {
    const share = (100 * budget / N).toFixed(1);
    $('amount').textContent = budget.toLocaleString('en') + ' patches, ' + share + ' %';
    if (d.scored) {
      $('slider').value = Math.round(1000 * Math.sqrt(budget / N));
      $('chosen').disabled = budget === d.kept;
    }
    let [ctx, w, h] = canvas('original', d.W / d.H);
    ctx.drawImage(pictures[slot], 0, 0, w, h);
    if (d.single) {
      ctx.strokeStyle = 'rgba(255,255,255,.28)';
      for (let c = 1; c < d.W; c++) ctx.strokeRect(Math.round(c * w / d.W), -1, 0, h + 2);
      for (let r = 1; r < d.H; r++) ctx.strokeRect(-1, Math.round(r * h / d.H), w + 2, 0);
      return;
    }
    const kept = counts();
    [ctx, w, h] = canvas('kept', d.W / d.H);
    tile(ctx, slot, 0, 0, w, h);
    $('time').textContent = 'slot ' + slot + ', ' + d.times[slot].toFixed(2) + ' s';
    $('count').textContent = kept[slot] + ' of ' + per + ' patches kept';
    if (d.T === 1) return;
    $('position').value = slot;
    [ctx, w, h] = canvas('bars', () => 84);
    const step = barGeometry(w), free = kept.filter((_, t) => !anchors.has(t)), highest = Math.max(...free, 1);
    for (let t = 0; t < d.T; t++) {
      const tall = Math.max(kept[t] ? 1 : 0, 62 * Math.min(kept[t] / highest, 1));
      ctx.fillStyle = t === slot ? INK : anchors.has(t) ? ANCHOR : '#b9b4a7';
      ctx.fillRect(t * step + 1, 68 - tall, Math.max(step - 2, 1), tall);
      if (shots.has(t) && shots.size > 1) { ctx.fillStyle = SHOT; ctx.fillRect(t * step, 0, 2, 78); }
    }
    ctx.fillStyle = LINE; ctx.fillRect(0, 68, w, 1);
    let g;
    [ctx, w, h] = canvas('sheet', width => (g = sheetGeometry(width)).height);
    ctx.font = '13px system-ui, sans-serif'; ctx.textBaseline = 'top';
    for (let t = 0; t < d.T; t++) {
      const x = g.x(t), y = g.y(t);
      tile(ctx, t, x, y, g.w, g.h);
      ctx.strokeStyle = ANCHOR; ctx.lineWidth = 3;
      if (anchors.has(t)) ctx.strokeRect(x + 1, y + 1, g.w - 2, g.h - 2);
      ctx.strokeStyle = INK; ctx.lineWidth = 2;
      if (t === slot) ctx.strokeRect(x, y, g.w, g.h);
      if (shots.has(t) && shots.size > 1) {
        const text = 'shot ' + shots.get(t);
        ctx.fillStyle = SHOT; ctx.fillRect(x, y, ctx.measureText(text).width + 10, 18);
        ctx.fillStyle = '#fff'; ctx.fillText(text, x + 5, y + 2);
      }
      ctx.fillStyle = SOFT;
      ctx.fillText(d.times[t].toFixed(2) + ' s', x, y + g.h + 4);
      const text = String(kept[t]);
      ctx.fillText(text, x + g.w - ctx.measureText(text).width, y + g.h + 4);
    }
  }
  const show = t => { slot = Math.max(0, Math.min(d.T - 1, t)); draw(); };
  if (d.scored) {
    $('slider').oninput = e => { budget = Math.max(1, Math.round(N * (e.target.value / 1000) ** 2)); draw(); };
    $('chosen').onclick = () => { budget = d.kept; draw(); };
    $('map').onchange = e => { map = e.target.checked; draw(); };
  }
  if (d.T > 1) {
    $('position').max = d.T - 1;
    $('position').oninput = e => show(+e.target.value);
    $('play').onclick = () => {
      $('play').textContent = timer ? 'play' : 'pause';
      timer = timer ? clearInterval(timer) : setInterval(() => show((slot + 1) % d.T), 1000 / d.rate);
    };
    const at = (e, name) => {
      const box = $(name).getBoundingClientRect();
      return [e.clientX - box.left, e.clientY - box.top];
    };
    $('bars').onclick = e => show(Math.floor(at(e, 'bars')[0] / barGeometry($('bars').clientWidth)));
    $('sheet').onclick = e => {
      const [x, y] = at(e, 'sheet'), g = sheetGeometry($('sheet').clientWidth);
      const t = Math.floor(y / (g.h + 28)) * g.n + Math.floor(x / (g.w + 8));
      if (t < d.T) show(t);
    };
  }
  window.addEventListener('resize', draw);
  draw();
}
document.querySelectorAll('.viewer').forEach(viewer);
"""
