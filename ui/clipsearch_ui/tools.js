// The picture button beside the search box; pasting and dropping a picture anywhere.
export default function ({ data, parentElement, setTriggerValue }) {
  const give = (file) => {
    if (!file) return;
    if (file.size > data.limit) { setTriggerValue("refused", file.size); return; }
    const input = document.querySelector('.st-key-picture_drop input[type="file"]');
    if (!input) return;
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const picture = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
  const veil = parentElement.querySelector(".drop");
  const chooser = parentElement.querySelector(".file");
  parentElement.querySelector(".pick").onclick = () => chooser.click();
  chooser.onchange = () => { give(chooser.files[0]); chooser.value = ""; };

  const listeners = {
    paste(event) {
      const file = picture(event.clipboardData);
      if (file) { event.preventDefault(); give(file); }
    },
    dragover(event) {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      veil.classList.add("on");
    },
    dragleave(event) { if (!event.relatedTarget) veil.classList.remove("on"); },
    drop(event) {
      veil.classList.remove("on");
      const file = event.dataTransfer?.files?.[0];
      if (file) { event.preventDefault(); give(file); }
    },
  };
  for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener);
  return () => {
    for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener);
  };
}
