// The page playground.md: one neuron under a current that the reader chooses, in two rows that differ in surrogate, reset and
// alpha; dL/du[t] as each row gives it, and one weight that each trains. The recursion is that of method.md, "Both, as one
// recursion". tests/test_browser.py compares what is drawn here with the package.
"use strict";

(() => {
  const STEPS = 24, UPDATES = 40;
  // Everything that a link keeps, with what the page opens with.
  const START = { input: "constant", current: 0.2, noise: 0.2, rate: 0.5, seed: 1, drawn: "",
    beta: 0.9, threshold: 0.5, loss: "third", from: 1, target: 5, speed: 0.02, updates: 0,
    surrogateA: "spatial", resetA: "zero", alphaA: 0, surrogateB: "spatial", resetB: "zero", alphaB: 0.8 };
  const SLIDERS = {
    current: { label: "current I", min: 0, max: 1.2 },
    noise: { label: "noise", min: 0, max: 1 },
    rate: { label: "spikes a step", min: 0, max: 2 },
    seed: { label: "seed", min: 1, max: 50, step: 1 },
    beta: { label: "decay beta", min: 0, max: 1 },
    threshold: { label: "threshold", min: 0.2, max: 1.2 },
    alphaA: { label: "alpha of A", min: 0, max: 1 },
    alphaB: { label: "alpha of B", min: 0, max: 1 },
    from: { label: "error has come to step", min: 1, max: STEPS, step: 1 },
    target: { label: "wanted spikes", min: 0, max: STEPS, step: 1 },
    speed: { label: "learning rate", min: 0, max: 0.1, step: 0.001 },
    updates: { label: "updates", min: 0, max: UPDATES, step: 1 },
  };
  const INPUTS = { constant: "constant", noise: "constant and noise", poisson: "Poisson spikes", drawn: "drawn by hand" };
  const SURROGATES = { spatial: "BPSA: 1/u where it fired", rectangle: "rectangle", atan: "arc tangent (snnTorch's default)" };
  const RESETS = { zero: "to zero", subtract: "by subtraction", none: "none" };
  const LOSSES = { third: "the spikes of the last third", all: "the spikes of all steps", last: "a spike at the last step" };
  const COUNTED = { third: STEPS - Math.floor(STEPS / 3), all: 0, last: STEPS - 1 }; // the first step that counts
  const MENUS = {
    input: { label: "input", choices: INPUTS },
    loss: { label: "the loss counts", choices: LOSSES },
    ...Object.fromEntries(["A", "B"].flatMap((row) => [
      [`surrogate${row}`, { label: `surrogate of ${row}`, choices: SURROGATES }],
      [`reset${row}`, { label: `reset of ${row}`, choices: RESETS }]])),
  };
  const row = (name, surrogate, reset, alpha) =>
    ({ [`surrogate${name}`]: surrogate, [`reset${name}`]: reset, [`alpha${name}`]: alpha });
  const PLAIN = row("A", "rectangle", "zero", 0), BPSA = row("A", "spatial", "zero", 0), BOTH = row("B", "spatial", "zero", 0.8);
  const EXPERIMENTS = {
    "1. No spike": { ...PLAIN, ...BOTH, current: 0.04 },
    "2. One spike": { ...PLAIN, ...BOTH, current: 0.06 },
    "3. Many spikes": { ...BPSA, ...BOTH, current: 0.2 },
    "4. snnTorch's default": { ...row("A", "atan", "subtract", 0), ...BOTH, current: 0.2 },
    "5. Poisson spikes": { ...BPSA, ...BOTH, input: "poisson", current: 0.3, rate: 0.6, seed: 7 },
  };
  const ROWS = ["A", "B"];

  // --- the neuron ---------------------------------------------------------------------------------

  function membranes(current, { beta, threshold }, reset) {
    const u = [], o = [];
    let mem = 0, spk = 0;
    for (const I of current) {
      mem = reset === "zero" ? beta * ((1 - spk) * mem) + I // Eq. 2
        : beta * mem + I - (reset === "subtract" ? spk * threshold : 0);
      spk = mem - threshold > 0 ? 1 : 0; // Eq. 3 and 4
      u.push(mem);
      o.push(spk);
    }
    return { u, o };
  }

  const DERIVATIVES = {
    spatial: (u, o) => (o ? 1 / u : 0), // Eq. 9
    rectangle: (u, o, threshold) => (Math.abs(u - threshold) < 0.5 ? 1 : 0),
    atan: (u, o, threshold) => 1 / (1 + (Math.PI * (u - threshold)) ** 2),
  };

  // dL/du[t], where L is the number of spikes from step `counted` on, and what each step hands to the one before.
  function backward({ u, o }, { beta, threshold }, surrogate, reset, alpha, counted) {
    const s = u.map((x, t) => DERIVATIVES[surrogate](x, o[t], threshold));
    const factor = s.map((x, t) => beta * ((reset === "zero" ? 1 - o[t] : 1) + (reset === "none" ? 0 : alpha * x)));
    const du = new Array(STEPS);
    for (let t = STEPS - 1, next = 0; t >= 0; t--) {
      next = s[t] * (t >= counted ? 1 : 0) + factor[t] * next;
      du[t] = next;
    }
    return { s, factor, du };
  }

  function run(input, weight, set, name) {
    const reset = set[`reset${name}`], counted = COUNTED[set.loss];
    const forward = membranes(input.map((x) => weight * x), set, reset);
    const back = backward(forward, set, set[`surrogate${name}`], reset, set[`alpha${name}`], counted);
    return { weight, counted, spikes: forward.o.slice(counted).reduce((a, b) => a + b, 0), ...forward, ...back };
  }

  // The neuron of one row after every update of its weight, from 1, by gradient descent on (spikes - target)^2 / 2.
  function learn(input, set, name) {
    const runs = [run(input, 1, set, name)];
    for (let n = 0; n < UPDATES; n++) {
      const { weight, spikes, du } = runs[n];
      const slope = (spikes - set.target) * du.reduce((sum, x, t) => sum + x * input[t], 0);
      runs.push(run(input, weight - set.speed * slope, set, name));
    }
    return runs.map((each) => ({ ...each, loss: (each.spikes - set.target) ** 2 / 2 }));
  }

  // --- the input ----------------------------------------------------------------------------------

  function generator(seed) { // mulberry32
    let state = seed | 0;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  function poisson(rate, random) { // how many, by Knuth
    let count = -1;
    for (let left = 1; left > Math.exp(-rate) || count < 0; left *= random()) count++;
    return count;
  }

  function currents({ input, current, noise, rate, seed, drawn }) {
    const random = generator(seed);
    if (input === "drawn") return drawn.split(",").map(Number);
    return Array.from({ length: STEPS }, () => input === "poisson" ? current * poisson(rate, random)
      : input === "noise" ? current + noise * (2 * random() - 1) : current);
  }

  // --- what a link keeps --------------------------------------------------------------------------

  function written(set) {
    const parts = Object.entries(set).filter(([name, value]) => value !== START[name]);
    return parts.map(([name, value]) => `${name}=${value}`).join("&");
  }

  // What stands in a link, as far as it is a setting; the rest is as the page opens.
  function read(hash) {
    const set = { ...START };
    for (const [name, text] of new URLSearchParams(hash)) {
      if (name in SLIDERS) {
        const { min, max } = SLIDERS[name], value = Number(text);
        if (text.trim() && Number.isFinite(value)) set[name] = Math.min(max, Math.max(min, value));
      } else if (name in MENUS && Object.hasOwn(MENUS[name].choices, text)) set[name] = text;
      else if (name === "drawn") {
        const values = text.split(",").map(Number);
        if (values.length === STEPS && values.every((x) => x >= 0 && x <= SLIDERS.current.max)) set.drawn = values.join(",");
      }
    }
    for (const name of ["seed", "from", "target", "updates"]) set[name] = Math.round(set[name]);
    if (set.input === "drawn" && !set.drawn) set.input = "constant";
    return set;
  }

  // --- in words -----------------------------------------------------------------------------------

  const count = (n, what) => (n === 0 ? `no ${what}` : n === 1 ? `1 ${what}` : `${n} ${what}s`);

  function reach(du) {
    const steps = du.flatMap((x, t) => (x !== 0 ? [t + 1] : []));
    const first = steps[0], last = steps.at(-1);
    if (!steps.length) return "at no step";
    if (steps.length === 1) return `at step ${first} only`;
    if (steps.length === last - first + 1) return `at steps ${first} to ${last}`;
    return `at ${steps.length} steps between ${first} and ${last}`;
  }

  function inWords(shown) {
    return ROWS.map((name) => {
      const { o, spikes, du } = shown[name], all = o.filter(Boolean).length, largest = Math.max(...du);
      const counted = !all ? "" : spikes === all ? ", all counted" : `, ${spikes || "none"} of them counted`;
      const grown = largest >= 100 ? `; it grows to ${short(largest)}` : "";
      return `${name}: ${count(all, "spike")} in ${STEPS} steps${counted}; the error arrives ${reach(du)}${grown}.`;
    }).join(" ");
  }

  function atStep(t, shown) {
    return `Step ${t + 1}. ` + ROWS.map((name) => {
      const { o, s, factor, du } = shown[name];
      return `${name} ${o[t] ? "fires" : "is silent"}: s = ${short(s[t])}, dL/du = ${short(du[t])}, ` +
        `to the step before times ${short(factor[t])}.`;
    }).join(" ");
  }

  function learning(set, runs) {
    return `After ${count(set.updates, "update")}. ` + ROWS.map((name) => {
      const { weight, spikes, loss } = runs[name][set.updates];
      return `${name}: weight ${short(weight)}, ${count(spikes, "spike")} counted, loss ${short(loss)}.`;
    }).join(" ");
  }

  // --- drawing ------------------------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";

  function make(tag, attributes = {}, ...children) {
    const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function short(x) {
    const rounded = Number(x.toPrecision(3));
    return Math.abs(rounded) >= 1e4 ? rounded.toExponential().replace("e+", "e") : String(rounded);
  }

  function ticks(low, high, wanted = 4) {
    const rough = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999) * power;
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step || 0);
  }

  const MARKS = {
    A: (x, y) => `M${x - 3.5} ${y - 3.5}h7v7h-7z`,
    B: (x, y) => `M${x} ${y - 3.5}l3.5 3.5l-3.5 3.5l-3.5 -3.5z`,
  };
  const LEFT = 46, RIGHT = 8, TOP = 8;

  // Empties `svg` and returns the scales, with the grid, the shaded part and the axes drawn.
  function axes(svg, { width, height, values, count, shaded, under, every, labels }) {
    const low = Math.min(0, ...values), high = Math.max(...values, 0) + (Math.max(...values, 0) - low) * 0.08 || 1;
    const full = height + TOP + (under ? 34 : 8);
    svg.replaceChildren();
    for (const [name, value] of Object.entries({ viewBox: `0 0 ${width} ${full}`, width, height: full })) svg.setAttribute(name, value);
    const slot = (width - LEFT - RIGHT) / count;
    const x = (t) => LEFT + (t + 0.5) * slot;
    const y = (value) => TOP + height * (high - value) / (high - low);
    svg.append(make("svg:rect", { class: "counted", x: x(shaded) - slot / 2, y: TOP, width: slot * (count - shaded), height }));
    for (const value of labels || ticks(low, high)) {
      svg.append(make("svg:line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      svg.append(make("svg:text", { class: "tick", x: LEFT - 6, y: y(value), "text-anchor": "end", dy: "0.32em" }, short(value)));
    }
    if (under) {
      for (let t = 0; t < count; t++) {
        if (!every(t)) continue;
        svg.append(make("svg:text", { class: "step", x: x(t), y: TOP + height + 15, "text-anchor": "middle" }, under.first + t));
      }
      svg.append(make("svg:text", { class: "name", x: (LEFT + width - RIGHT) / 2, y: TOP + height + 30, "text-anchor": "middle" },
        under.name));
    }
    return { x, y, slot, high, low, height };
  }

  // The curve of a row, from the step `from` on.
  function curve(svg, series, values, { x, y }, from = 0) {
    const points = values.map((value, t) => [x(t), y(value)].map((p) => Math.round(p * 1000) / 1000)).slice(from);
    const name = series.at(-1);
    svg.append(make("svg:polyline", { class: "curve", "data-row": name, "data-series": series,
      "data-values": JSON.stringify(values), points: points.map((p) => p.join(",")).join(" ") }));
    svg.append(make("svg:path", { class: "marks", "data-row": name, d: points.map((p) => MARKS[name](...p)).join("") }));
  }

  const STEP_AXIS = { under: { name: "time step t", first: 1 }, every: (t) => t === 0 || (t + 1) % 4 === 0 };

  const PLOTS = {
    input(svg, width, set, input) {
      const top = set.input === "drawn" ? [SLIDERS.current.max] : [];
      const scale = axes(svg, { width, height: 70, values: [...input, ...top], count: STEPS, shaded: STEPS });
      svg.append(make("svg:path", { class: "bars", "data-series": "input", "data-values": JSON.stringify(input),
        d: input.map((I, t) => `M${scale.x(t)} ${scale.y(0)}V${scale.y(I)}`).join("") }));
      return scale;
    },
    u(svg, width, set, input, shown) {
      const values = [set.threshold, ...ROWS.flatMap((name) => shown[name].u)];
      const scale = axes(svg, { width, height: 120, values, count: STEPS, shaded: shown.A.counted });
      const line = scale.y(set.threshold);
      svg.append(make("svg:line", { class: "threshold", x1: LEFT, x2: width - RIGHT, y1: line, y2: line }));
      for (const name of ROWS) curve(svg, `u${name}`, shown[name].u, scale);
      svg.setAttribute("aria-label", `Membrane u over ${STEPS} steps. ` +
        ROWS.map((name) => `${name}: largest ${short(Math.max(...shown[name].u))}`).join("; "));
    },
    o(svg, width, set, input, shown) {
      const { x, y } = axes(svg, { width, height: 44, values: [2], count: STEPS, shaded: shown.A.counted, labels: [] });
      ROWS.forEach((name, lane) => {
        svg.append(make("svg:text", { class: "lane", x: LEFT - 6, y: y(1.5 - lane), "text-anchor": "end", dy: "0.32em" }, name));
        svg.append(make("svg:path", { class: "spikes", "data-row": name, "data-series": `o${name}`,
          "data-values": JSON.stringify(shown[name].o),
          d: shown[name].o.map((spk, t) => (spk ? `M${x(t)} ${y(1.1 - lane)}V${y(1.9 - lane)}` : "")).join("") }));
      });
      const at = (name) => shown[name].o.flatMap((spk, t) => (spk ? [t + 1] : [])).join(", ") || "none";
      svg.setAttribute("aria-label", `Spikes at steps. ${ROWS.map((name) => `${name}: ${at(name)}`).join("; ")}`);
    },
    du(svg, width, set, input, shown) {
      const values = ROWS.flatMap((name) => shown[name].du);
      const scale = axes(svg, { width, height: 140, values, count: STEPS, shaded: shown.A.counted, ...STEP_AXIS });
      for (const name of ROWS) curve(svg, `du${name}`, shown[name].du, scale, set.from - 1);
      if (set.from > 1) {
        const x = scale.x(set.from - 1);
        svg.append(make("svg:line", { class: "here", x1: x, x2: x, y1: TOP, y2: TOP + scale.height }));
      }
      svg.setAttribute("aria-label", "Gradient dL/du over the steps. " +
        ROWS.map((name) => `${name}: ${reach(shown[name].du)}`).join("; "));
    },
    loss(svg, width, set, input, shown, runs) {
      const losses = ROWS.map((name) => runs[name].map((each) => each.loss));
      const scale = axes(svg, { width, height: 110, values: losses.flat(), count: UPDATES + 1, shaded: UPDATES + 1,
        under: { name: "updates of the weight", first: 0 }, every: (n) => n % 10 === 0 });
      ROWS.forEach((name, i) => curve(svg, `loss${name}`, losses[i], scale));
      const x = scale.x(set.updates);
      svg.append(make("svg:line", { class: "here", x1: x, x2: x, y1: TOP, y2: TOP + scale.height }));
      svg.setAttribute("aria-label", "Loss over the updates. " +
        ROWS.map((name, i) => `${name}: from ${short(losses[i][0])} to ${short(losses[i][UPDATES])}`).join("; "));
    },
  };

  // --- the page -----------------------------------------------------------------------------------

  function build(root) {
    let set = read(location.hash.slice(1));
    const controls = {}, outputs = {}, plots = {}, scales = {};

    function change(values) {
      set = { ...set, ...values };
      if (set.input === "drawn" && !set.drawn) {
        const before = currents({ ...set, input: values.before || "constant" });
        set.drawn = before.map((I) => Number(Math.min(SLIDERS.current.max, Math.max(0, I)).toFixed(2))).join(",");
      }
      delete set.before;
      draw();
    }

    function control(name) {
      const id = `playground-${name}`;
      const slider = SLIDERS[name], { label } = slider || MENUS[name];
      if (slider) {
        const { min, max, step = 0.01 } = slider;
        controls[name] = make("input", { id, type: "range", min, max, step });
        outputs[name] = make("output", { for: id });
      } else {
        const options = Object.entries(MENUS[name].choices).map(([value, text]) => make("option", { value }, text));
        controls[name] = make("select", { id }, ...options);
      }
      controls[name].addEventListener("input", () => {
        stop();
        const value = slider ? Number(controls[name].value) : controls[name].value;
        change({ [name]: value, ...(name === "input" ? { before: set.input } : {}) });
      });
      return make("div", { class: "control" }, make("label", { for: id }, label), ...(slider ? [outputs[name]] : []),
        controls[name]);
    }

    // A button that moves a slider from one end to the other, and stops it.
    let timer = null, playing = null;
    function stop() {
      clearInterval(timer);
      if (playing) [playing.button.textContent] = [playing.text];
      playing = null;
    }
    function player(text, name, first, last) {
      const button = make("button", { type: "button", class: `play ${name}` }, text);
      button.addEventListener("click", () => {
        const again = playing?.button === button;
        stop();
        if (again) return;
        playing = { button, text };
        button.textContent = "Stop";
        change({ [name]: set[name] === last ? first : set[name] });
        timer = setInterval(() => {
          if (set[name] === last) stop();
          else change({ [name]: set[name] + Math.sign(last - first) });
        }, 300);
      });
      return button;
    }

    function plot(name, caption) {
      plots[name] = make("svg:svg", { role: "img" });
      return make("figure", { class: name }, make("figcaption", {}, caption), plots[name]);
    }

    const legend = make("ul", { class: "legend" }, ...ROWS.map((name) => make("li", {},
      make("svg:svg", { class: "sample", width: 30, height: 12, "aria-hidden": "true" },
        make("svg:line", { class: "curve", "data-row": name, x1: 1, x2: 29, y1: 6, y2: 6 }),
        make("svg:path", { class: "marks", "data-row": name, d: MARKS[name](15, 6) })), make("span", { "data-name": name }))));
    const buttons = make("div", { class: "experiments", role: "group", "aria-label": "Experiments" });
    for (const [label, values] of Object.entries(EXPERIMENTS)) {
      const button = make("button", { type: "button" }, label);
      button.addEventListener("click", () => { stop(); change({ ...START, ...values }); });
      buttons.append(button);
    }
    const words = make("p", { class: "words", role: "status", "aria-live": "polite" });
    const step = make("p", { class: "said step" }), learnt = make("p", { class: "said learnt" });
    const link = make("a", { class: "link", href: "#" }, "Link to these settings");
    const rows = ROWS.map((name) => make("fieldset", { "data-row": name }, make("legend", {}, `Row ${name}`),
      ...["surrogate", "reset", "alpha"].map((what) => control(what + name))));
    const section = (left, right) => make("div", { class: "section" }, make("div", { class: "controls" }, ...left),
      make("div", { class: "plots" }, ...right));
    root.replaceChildren(buttons, words, legend,
      section(["input", "current", "noise", "rate", "seed"].map(control),
        [plot("input", "Input current: draw with the mouse or a finger, or by the arrow keys")]),
      section([control("beta"), control("threshold"), make("div", { class: "rows" }, ...rows)],
        [plot("u", "Membrane u[t]; dashed: the threshold"), plot("o", "Spikes o[t]; shaded: the steps that the loss counts")]),
      section([control("loss"), control("from"), player("Play: send the error back", "from", STEPS, 1), step],
        [plot("du", "Gradient dL/du[t]")]),
      section([control("target"), control("speed"), control("updates"), player("Train the weight", "updates", 0, UPDATES), learnt],
        [plot("loss", "Loss while each row trains one weight, which multiplies the input")]),
      make("p", { class: "share" }, link));

    // The input, drawn by hand.
    const pad = plots.input;
    let at = 0;
    for (const [name, value] of Object.entries({ role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": SLIDERS.current.max,
      "aria-label": "Input current, step by step: left and right choose a step, up and down change it" })) pad.setAttribute(name, value);
    function put(t, value) {
      stop();
      if (set.input !== "drawn") change({ input: "drawn", drawn: "", before: set.input });
      const values = currents(set);
      values[t] = Number(Math.min(SLIDERS.current.max, Math.max(0, value)).toFixed(2));
      change({ drawn: values.join(",") });
    }
    function pointed(event) {
      const box = pad.getBoundingClientRect(), { slot, high, low, height } = scales.input;
      at = Math.min(STEPS - 1, Math.max(0, Math.floor((event.clientX - box.left - LEFT) / slot)));
      put(at, high - (event.clientY - box.top - TOP) / height * (high - low));
    }
    pad.addEventListener("pointerdown", (event) => { pad.setPointerCapture(event.pointerId); pointed(event); });
    pad.addEventListener("pointermove", (event) => { if (pad.hasPointerCapture(event.pointerId)) pointed(event); });
    pad.addEventListener("keydown", (event) => {
      const { key } = event;
      const along = { ArrowLeft: -1, ArrowRight: 1 }[key], up = { ArrowUp: 0.05, ArrowDown: -0.05 }[key];
      if (!along && !up) return;
      event.preventDefault();
      if (along) { at = Math.min(STEPS - 1, Math.max(0, at + along)); draw(true); } else put(at, currents(set)[at] + up);
    });

    let drawn = "";
    function draw(again = false) {
      const widths = Object.values(plots).map((svg) => svg.parentNode.clientWidth);
      const wanted = JSON.stringify([set, widths]);
      if ((wanted === drawn && again !== true) || widths[0] === 0) return;
      drawn = wanted;
      for (const [name, node] of Object.entries(controls)) {
        node.value = set[name];
        if (outputs[name]) outputs[name].textContent = set[name].toFixed({ 1: 0, 0.001: 3 }[SLIDERS[name].step] ?? 2);
      }
      const kind = set.input;
      for (const [name, kinds] of [["current", "constant noise poisson"], ["noise", "noise"], ["rate", "poisson"], ["seed", "noise poisson"]]) {
        controls[name].parentNode.hidden = !kinds.split(" ").includes(kind);
      }
      for (const name of ROWS) controls[`alpha${name}`].disabled = set[`reset${name}`] === "none"; // it crosses a reset
      const input = currents(set);
      const runs = Object.fromEntries(ROWS.map((name) => [name, learn(input, set, name)]));
      const shown = Object.fromEntries(ROWS.map((name) => [name, runs[name][set.updates]]));
      Object.entries(plots).forEach(([name, svg], i) => { scales[name] = PLOTS[name](svg, widths[i], set, input, shown, runs); });
      if (document.activeElement === pad) {
        const { x, height } = scales.input;
        pad.append(make("svg:line", { class: "here", x1: x(at), x2: x(at), y1: TOP, y2: TOP + height }));
      }
      pad.setAttribute("aria-valuenow", input[at]);
      pad.setAttribute("aria-valuetext", `step ${at + 1}: ${short(input[at])}`);
      for (const name of ROWS) {
        legend.querySelector(`[data-name=${name}]`).textContent = `${name}: ${SURROGATES[set[`surrogate${name}`]]}, reset ` +
          `${RESETS[set[`reset${name}`]]}, alpha ${short(set[`alpha${name}`])}`;
      }
      const texts = [[words, inWords(shown)], [step, atStep(set.from - 1, shown)], [learnt, learning(set, runs)]];
      for (const [node, text] of texts) if (node.textContent !== text) node.textContent = text;
      const hash = `#${written(set)}`;
      link.href = hash;
      if (hash !== (location.hash || "#")) history.replaceState(null, "", hash === "#" ? location.pathname + location.search : hash);
    }
    window.addEventListener("hashchange", () => { stop(); set = read(location.hash.slice(1)); draw(); });
    new ResizeObserver(draw).observe(root);
    draw();
  }

  document.querySelectorAll(".playground-figure").forEach((node) => node.remove());
  document.querySelectorAll(".playground").forEach(build);
})();
