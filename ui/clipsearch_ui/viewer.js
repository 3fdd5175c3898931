// One photo, large. Its alternative text is a property of the image and never becomes HTML.
export default function ({ data, parentElement }) {
  const frame = parentElement.querySelector(".frame");
  const image = frame.querySelector("img");
  if (image.getAttribute("src") !== data.src) {
    frame.classList.remove("gone");
    image.onerror = () => frame.classList.add("gone");
    image.src = data.src;
  }
  image.alt = data.alt;
  image.width = data.width;
  image.height = data.height;
}
