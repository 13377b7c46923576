"""How the studio looks: theme, style sheet, and the few lines of script that small pictures need."""

import gradio as gr

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "monospace"]

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    secondary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.stone,
    font=FONT,
    font_mono=MONO,
    radius_size=gr.themes.sizes.radius_md,
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    block_border_width="1px",
    block_shadow="none",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    block_title_text_weight="600",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
    button_primary_text_color="white",
)

CSS = """
.gradio-container .fillable { max-width: 1120px !important; width: 100%; }
.html-container { padding: 0 !important; }
.masthead { padding: 12px 0 4px; }
button[role="tab"][aria-selected="true"] { color: var(--primary-700) !important; font-weight: 600; }
.dark button[role="tab"][aria-selected="true"] { color: var(--primary-300) !important; }
.masthead h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -0.02em; margin: 0; }
.masthead p { margin: 2px 0 0; color: var(--body-text-color-subdued); }
.said:not(:has(p)) { display: none; }
.lead p, .lead { color: var(--body-text-color-subdued); max-width: 68ch; }

.projects { align-items: end; }
.projects button { height: 42px; }

.paint { position: relative; overflow: hidden; border-radius: 8px; background: white; }
.paint img, .paint canvas { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; object-fit: cover; }
.paint canvas { opacity: 0.7; cursor: crosshair; touch-action: none; }
.brush { display: flex; flex-wrap: wrap; align-items: center; gap: 12px; padding-top: 8px; font-size: 0.85rem; }
.brush label { display: flex; align-items: center; gap: 6px; }
.brush input[type="range"] { width: 110px; accent-color: var(--primary-600); }
.brush button { padding: 4px 10px; border-radius: 6px; border: 1px solid var(--border-color-primary); }

.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 10px; }
.card { display: flex; flex-direction: column; gap: 6px; min-width: 0; padding: 8px; border-radius: 8px;
  border: 1px solid var(--border-color-primary); background: var(--block-background-fill); font-size: 0.85rem; }
.card .square { display: flex; flex-direction: column; gap: 4px; }
.card img { width: 100%; aspect-ratio: 1; object-fit: cover; margin: 0; border-radius: 6px; }
.card .masked { position: relative; }
.card .masked .mask { position: absolute; inset: 0; mix-blend-mode: multiply; opacity: 0.75; pointer-events: none; }
.card .masked button { position: absolute; top: 4px; right: 4px; background: var(--background-fill-primary); }
.card input[type="range"] { width: 100%; margin: 0; accent-color: var(--primary-600); }
.card header { display: flex; align-items: center; gap: 4px; }
.card header span { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.card button { width: 26px; height: 26px; border-radius: 6px; font-size: 1.1rem; line-height: 1;
  color: var(--body-text-color-subdued); }
.card button:hover, .card button:focus-visible { background: var(--background-fill-secondary); color: #dc2626; }
.card textarea { width: 100%; padding: 6px 8px; font-size: 0.85rem; line-height: 1.35; resize: vertical;
  field-sizing: content; border-radius: 6px; border: 1px solid var(--input-border-color);
  background: var(--input-background-fill); color: var(--body-text-color); }
.card .learned { margin: 0; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.card mark { padding: 1px 6px; border-radius: 999px; background: var(--primary-100); color: var(--primary-800); }
.dark .card mark { background: var(--primary-900); color: var(--primary-200); }
.card ul { margin: 0; padding: 0; list-style: none; display: grid; gap: 4px; }
.card ul:empty { display: none; }
.card li { padding-left: 8px; border-left: 3px solid #d97706; color: var(--body-text-color); overflow-wrap: anywhere; }
.card li.error { border-color: #dc2626; }

.strips { margin: 8px 0; }
.strips h4 { margin: 0 0 6px; font-size: 0.9rem; font-weight: 600; }
.strips figcaption { display: flex; align-items: center; gap: 14px; margin-bottom: 8px; font-size: 0.92rem; }
.strips a { text-decoration: underline; }
.strips input { flex: 1; min-width: 0; accent-color: var(--primary-600); }
.strips output { min-width: 5em; font-variant-numeric: tabular-nums; }
.strips img { width: 100%; max-height: 80vh; margin: 0; object-fit: contain; }
.gallery-container:has(.preview) .grid-wrap { visibility: hidden; }
.results .grid-wrap { min-height: 240px !important; max-height: none; }
.results .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
.results:has(.preview) .grid-wrap { min-height: min(560px, 90vw) !important; }
/* A caption stands below its picture. */
.results .thumbnail-lg { aspect-ratio: auto; height: auto; display: flex; flex-direction: column; }
.results .thumbnail-lg img { aspect-ratio: 1; height: auto; }
.results .caption-label { position: static; width: 100%; max-width: 100%; border: 0; border-radius: 0;
  text-align: center; white-space: normal; }

.pairs { overflow-x: auto; }
.pairs table { border-collapse: separate; border-spacing: 6px; }
.pairs th { font-weight: 600; font-size: 0.85rem; text-align: left; max-width: 130px; overflow-wrap: anywhere; }
.pairs td { width: 110px; min-width: 84px; font-size: 0.75rem; color: var(--body-text-color-subdued); }
.pairs button { padding: 0; border: 2px solid transparent; border-radius: 8px; overflow: hidden; display: block; }
.pairs button:is(:hover, :focus-visible) { border-color: #0d9488; }
.pairs img { width: 104px; height: 104px; object-fit: contain; margin: 0; }

.line h4 { margin: 8px 0 2px; font-size: 0.9rem; }
.line ol { margin: 0; padding-left: 20px; }

/* As many settings side by side as fit, in columns of one width. */
.settings .form { display: grid; grid-template-columns: repeat(auto-fit, minmax(215px, 1fr));
  background: var(--block-background-fill); }
.settings .form .absent { display: none !important; }
.about { margin: 0; padding: 0 2px; color: var(--body-text-color-subdued); }

.download { display: inline-block; padding: 9px 18px; margin-right: 12px; border-radius: 8px; font-weight: 600;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color) !important;
  text-decoration: none !important; }
.download:hover { background: var(--button-secondary-background-fill-hover); }
.download + span { color: var(--body-text-color-subdued); font-size: 0.9rem; }

.album .grid-container { grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)) !important; }
.album .grid-wrap { min-height: 0 !important; max-height: 560px; }
#shot img { width: 100%; height: 100%; object-fit: contain; }
.facts { margin: 4px 0; display: grid; gap: 3px; }
.facts div { display: grid; grid-template-columns: 8.5em 1fr; gap: 10px; }
.facts dt { color: var(--body-text-color-subdued); }
.facts dd { margin: 0; overflow-wrap: anywhere; }

img.crisp { image-rendering: pixelated; }

.note { margin: 4px 0; padding: 7px 12px; border-radius: 8px; border-left: 3px solid; font-size: 0.92rem;
  background: var(--background-fill-secondary); color: var(--body-text-color); border-color: var(--neutral-400);
  overflow-wrap: anywhere; }
.note.good { border-color: #0f766e; }
.note.warning { border-color: #d97706; }
.note.error { border-color: #dc2626; }

.progress { padding: 4px 2px; }
.progress header { display: flex; gap: 10px; align-items: center; flex-wrap: wrap; }
.badge { font-size: 0.8rem; font-weight: 600; padding: 2px 10px; border-radius: 999px;
  color: #fff; background: #57534e; }
.badge.running, .badge.preparing, .badge.done { background: #0f766e; }
.badge.failed, .badge.interrupted { background: #b91c1c; }
.badge.cancelled { background: #92400e; }
.stages { display: flex; gap: 6px; list-style: none; margin: 14px 0 8px; padding: 0; }
.stages li { flex: 1; margin: 0; padding: 4px 0; font-size: 0.9rem; text-align: center; border-radius: 8px;
  background: var(--background-fill-secondary); color: var(--body-text-color-subdued); }
.stages li.past { color: var(--body-text-color); }
.stages li.past::after { content: " ✓"; }
.stages li.now { background: #0f766e; color: #fff; font-weight: 600; }
.bar { height: 8px; border-radius: 999px; overflow: hidden; background: var(--border-color-primary); }
.bar div { height: 100%; border-radius: 999px; background: #0d9488; transition: width 0.8s linear; }
.progress dl { display: flex; gap: 10px 28px; margin: 14px 0 0; flex-wrap: wrap; }
.progress dl:empty { display: none; }
.progress dt { font-size: 0.8rem; color: var(--body-text-color-subdued); }
.progress dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.progress p { margin: 10px 0 0; color: var(--body-text-color-subdued); }
.progress p:empty { display: none; }

.curve { width: 100%; height: auto; display: block; }
.curve.empty { color: var(--body-text-color-subdued); padding: 8px 2px; margin: 0; }
.curve text { font-size: 12px; fill: var(--body-text-color-subdued); font-family: inherit; }
.curve line { stroke: var(--border-color-primary); }
.curve .marks line { stroke-dasharray: 3 4; }
.curve polyline { fill: none; pointer-events: none; }
.curve .hints rect { fill: transparent; }
.curve .hints rect:hover { fill: #0d9488; fill-opacity: 0.12; }
.curve .each { stroke: #0d9488; opacity: 0.28; }
.curve .mean { stroke: #0d9488; stroke-width: 2.2; stroke-linejoin: round; }

@media (prefers-reduced-motion: reduce) { .bar div { transition: none; } }
@media (max-width: 640px) {
  .gradio-container { padding: 0 8px 56px !important; }
  .masthead { padding-top: 10px; }
  .tab-container button { padding-left: 7px !important; padding-right: 7px !important; font-size: 0.85rem !important; }
  .progress dl { gap: 10px 18px; }
  .results .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  /* What draws stays in reach of the thumb, however long the settings are. */
  .drawing { position: fixed; inset: auto 0 0; z-index: 20; margin: 0; padding: 8px; flex-wrap: nowrap !important;
    gap: 6px !important; background: var(--body-background-fill); border-top: 1px solid var(--border-color-primary); }
  .drawing button { padding: 8px 2px !important; font-size: 0.85rem !important; white-space: nowrap; }
}
"""

LARGEST_UPLOAD = 50 * 2**20  # bytes

# Pictures of 64 pixels are enlarged as they are; photographs, shown smaller than they are, stay smooth. Gradio's text
# fields take nothing but key presses for a person's input: what is pasted, deleted, dictated or written on a telephone
# is input too. A file that is too large is named before it is sent: what Gradio says of it is "An error occurred". Of a
# folder that is dropped it would send the name alone. For what is dropped beside all zones the browser would leave the
# page. And on a telephone the pictures come below all settings.
HEAD = """
<script>
document.addEventListener("load", (event) => {
  const image = event.target;
  if (image.tagName === "IMG") image.classList.toggle("crisp", image.naturalWidth <= 192 && image.naturalWidth > 0);
}, true);

document.addEventListener("input", ({ target }) => {
  if (target.matches("[data-testid=textbox]")) target.dispatchEvent(new KeyboardEvent("keypress"));
});

const filesOf = async (entry) => {
  if (entry.isFile) return [await new Promise((found, failed) => entry.file(found, failed))];
  const reader = entry.createReader(), inside = [];
  for (let some = [1]; some.length; inside.push(...some))
    some = await new Promise((found, failed) => reader.readEntries(found, failed));
  return (await Promise.all(inside.map(filesOf))).flat();
};
document.addEventListener("drop", async (event) => {
  const input = event.target.closest(".zone")?.querySelector("input[type=file]");
  const entries = [...(event.dataTransfer?.items ?? [])].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  if (!input || !entries.some((entry) => entry.isDirectory)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const files = new DataTransfer();
  for (const file of (await Promise.all(entries.map(filesOf))).flat()) files.items.add(file);
  input.files = files.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}, true);

const isTyped = ({ target, clipboardData }) =>
  target.matches?.("input, textarea, [contenteditable]") && clipboardData?.types.includes("text/plain");
const takeIn = (event) => {
  const files = event.dataTransfer?.files ?? event.clipboardData?.files ?? [];
  if (event.defaultPrevented || !files.length || isTyped(event)) return;
  event.preventDefault();
  const input = document.querySelector("input[data-testid=anywhere-upload-button]"), one = new DataTransfer();
  one.items.add(files[0]);
  input.files = one.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  window.scrollTo({ top: 0 });  // where it is said what came of it
};
window.addEventListener("dragover", (event) => {
  if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
});
for (const kind of ["drop", "paste"]) window.addEventListener(kind, takeIn);

document.addEventListener("click", ({ target }) => {
  const asked = target.closest("#draw, #compare, #rules") && matchMedia("(max-width: 640px)").matches;
  if (asked) document.getElementById("play-note").scrollIntoView({ block: "start" });
});

const LARGEST = LARGEST_UPLOAD, MB = 2 ** 20;
for (const kind of ["change", "drop", "paste"]) document.addEventListener(kind, (event) => {
  const files = [...(event.target.files ?? event.dataTransfer?.files ?? event.clipboardData?.files ?? [])];
  const block = event.target.closest?.(".block") ?? document.querySelector(".tabs");
  if (!files.length || !block) return;
  document.querySelectorAll(".too-large").forEach((note) => note.remove());
  const large = files.filter((file) => file.size > LARGEST);
  if (!large.length) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (kind === "change") event.target.value = "";
  const note = document.createElement("p");
  note.className = "note error too-large";
  note.setAttribute("role", "alert");
  const sizes = large.map((file) => `${file.name} has ${Math.ceil(file.size / MB)} MB`).join(", ");
  note.textContent = `${sizes}, and ${LARGEST / MB} MB is the limit. Save it smaller, then add it again.`;
  block.before(note);
}, true);
</script>
""".replace("LARGEST_UPLOAD", str(LARGEST_UPLOAD))
