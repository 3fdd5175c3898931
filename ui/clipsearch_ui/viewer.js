// One photo, large: its thumbnail at once, then itself. Its alternative text is a property and never becomes HTML.
export default function ({ data, parentElement }) {
  const frame = parentElement.querySelector(".frame");
  const early = frame.querySelector(".early");
  const photo = frame.querySelector(".photo");
  photo.alt = data.alt;
  if (photo.getAttribute("src") === data.src) return;
  frame.classList.remove("gone", "there", "blank");
  // A small photo is enlarged, but not until it is nothing but blocks.
  for (const image of [early, photo]) {
    image.style.maxWidth = `min(100%, ${data.width * 2.5}px)`;
    image.style.maxHeight = `min(100%, ${data.height * 2.5}px)`;
  }
  photo.onerror = () => frame.classList.add("gone");
  photo.onload = () => {
    frame.classList.add("there");
    for (const address of data.beside) new Image().src = address;
  };
  early.onerror = () => frame.classList.add("blank");
  early.src = data.early;
  photo.src = data.src;
}
