"""What is painted over a picture to start from: the canvas in the page, and the mask that comes of it."""

import base64
import binascii
import io
from pathlib import Path

from PIL import Image

from app.copies import address
from pipelines.errors import UserError

SIDE = 256  # pixels of the canvas, whatever the picture has
HEAD = "data:image/png;base64,"
MOST = 200_000  # letters of what a page may send: a canvas of one colour has less

# The canvas lies over the picture. A mask that was painted before is a picture of its own, white where it is.
SCRIPT = """
const part = (name) => element.querySelector(`[name="${name}"]`);
const context = () => part("canvas").getContext("2d");
const send = () => trigger("input", { mask: part("canvas").toDataURL("image/png") });
let last = null;
const at = (event) => {
  const box = part("canvas").getBoundingClientRect();
  return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
};
const stroke = (to) => {
  const brush = context();
  brush.globalCompositeOperation = part("erase").checked ? "destination-out" : "source-over";
  Object.assign(brush, { lineWidth: part("size").valueAsNumber, lineCap: "round", strokeStyle: "PAINT" });
  brush.beginPath();
  brush.moveTo(...last);
  brush.lineTo(...to);
  brush.stroke();
  last = to;
};
element.addEventListener("pointerdown", (event) => {
  if (event.target !== part("canvas") || event.button) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  last = at(event);
  stroke(last);
});
element.addEventListener("pointermove", (event) => { if (last) stroke(at(event)); });
for (const end of ["pointerup", "pointercancel"])
  element.addEventListener(end, () => { if (last) { last = null; send(); } });
element.addEventListener("click", ({ target }) => {
  if (target.name !== "clear") return;
  context().clearRect(0, 0, SIDE, SIDE);
  send();
});
const show = () => {
  if (!part("canvas")) return;
  context().clearRect(0, 0, SIDE, SIDE);
  if (!part("canvas").dataset.mask) return;
  const painted = new Image();
  painted.onload = () => {
    const brush = context();
    brush.globalCompositeOperation = "source-over";
    brush.drawImage(painted, 0, 0, SIDE, SIDE);
    const pixels = brush.getImageData(0, 0, SIDE, SIDE);
    for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i];
    brush.putImageData(pixels, 0, 0);
    brush.globalCompositeOperation = "source-in";
    brush.fillStyle = "PAINT";
    brush.fillRect(0, 0, SIDE, SIDE);
  };
  painted.src = part("canvas").dataset.mask;
};
show();  // a fold that was not there yet begins with its value
watch("value", show);
""".replace("SIDE", str(SIDE)).replace("PAINT", "#e5484d")


def canvas(picture: Path | None, mask: Path | None = None, size: tuple[int, int] = (1, 1)) -> str:
    """What is painted on, as HTML; empty without a picture.

    Args:
        picture, mask: copies that may be served. The mask was painted before, and is white there.
        size: width and height of what is drawn, of which the canvas has the shape.
    """
    if picture is None:
        return ""
    source = f' data-mask="{address(mask)}"' if mask else ""
    return (
        f'<div class="paint" style="aspect-ratio: {size[0]} / {size[1]}">'
        f'<img src="{address(picture)}" alt="The picture to start from">'
        f'<canvas name="canvas" width="{SIDE}" height="{SIDE}"{source} role="img" '
        'aria-label="Paint over what is to change"></canvas></div>'
        '<div class="brush"><label>Brush <input type="range" name="size" min="4" max="96" value="32"></label>'
        '<label><input type="checkbox" name="erase"> Erase</label>'
        '<button type="button" name="clear">Clear</button></div>'
    )


def read(sent: object) -> Image.Image:
    """What a page has painted, (SIDE, SIDE), grey, white where it is.

    Raises:
        UserError: it is nothing that the canvas sends.
    """
    try:
        if not isinstance(sent, str) or not sent.startswith(HEAD) or len(sent) > MOST:
            raise ValueError
        with Image.open(io.BytesIO(base64.b64decode(sent[len(HEAD) :], validate=True)), formats=("PNG",)) as image:
            if image.size != (SIDE, SIDE) or image.mode != "RGBA":
                raise ValueError
            return image.getchannel("A")
    except (ValueError, OSError, SyntaxError, binascii.Error, Image.DecompressionBombError):
        raise UserError("What was painted over the picture cannot be read", "Clear it, and paint it again") from None
