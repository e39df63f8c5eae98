// Brings the widgets of a static page to life: no kernel, no globals. The picture painted by the server stays if anything fails.

function makeModel(state) {
  const listeners = new Map();
  const at = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
  return {
    get: (key) => state[key],
    set(key, value) {
      if (JSON.stringify(state[key]) === JSON.stringify(value)) return;
      state[key] = value;
      for (const call of [...at("change:" + key), ...at("change")]) call();
    },
    save_changes() {},
    on: (event, call) => void at(event).add(call),
    off: (event, call) => void (call ? at(event).delete(call) : at(event).clear()),
  };
}

async function mount(el) {
  if (el.dataset.mounted) return;
  el.dataset.mounted = "loading";
  try {
    const state = JSON.parse(el.querySelector('script[type="application/json"]').textContent);
    const file = el.dataset.widget.replaceAll("-", "_") + ".mjs";
    const { default: widget } = await import(new URL(file, import.meta.url));
    const model = makeModel(state);
    await widget.initialize?.({ model });
    await widget.render({ model, el });
    el.dataset.mounted = "yes";
  } catch (error) {
    el.dataset.mounted = "failed";
    console.warn(`The widget ${el.dataset.widget} stays a still picture:`, error);
  }
}

document.querySelectorAll("[data-widget]").forEach(mount);
