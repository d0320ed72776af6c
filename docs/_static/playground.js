// The page playground.md: one neuron (Eq. 2) under a constant current, and dL/du[t] as three kinds of backpropagation
// give it. The recursion is that of method.md, "Both, as one recursion". tests/test_browser.py compares what is drawn
// here with the oracle of the package's tests.
"use strict";

(() => {
  const STEPS = 24;
  const SLIDERS = [
    { name: "current", label: "current I", min: 0, max: 1.2, value: 0.2 },
    { name: "beta", label: "decay beta", min: 0, max: 1, value: 0.9 },
    { name: "threshold", label: "threshold", min: 0.2, max: 1.2, value: 0.5 },
    { name: "alpha", label: "alpha of BPTA", min: 0, max: 1, value: 0.8 },
  ];
  // The first counted step, from 0.
  const LOSSES = [
    { name: "third", label: "the spikes of the last third", from: STEPS - Math.floor(STEPS / 3) },
    { name: "all", label: "the spikes of all steps", from: 0 },
    { name: "last", label: "a spike at the last step", from: STEPS - 1 },
  ];
  const EXPERIMENTS = [
    { label: "1. No spike", values: { current: 0.04, beta: 0.9, threshold: 0.5, alpha: 0.8, loss: "third" } },
    { label: "2. One spike", values: { current: 0.06, beta: 0.9, threshold: 0.5, alpha: 0.8, loss: "third" } },
    { label: "3. Many spikes", values: { current: 0.2, beta: 0.9, threshold: 0.5, alpha: 0.8, loss: "third" } },
  ];
  const VARIANTS = [
    { name: "baseline", label: "plain backpropagation (rectangle)" },
    { name: "bpsa", label: "BPSA" },
    { name: "bpsa+bpta", label: "BPSA + BPTA" },
  ];

  // --- the neuron ---------------------------------------------------------------------------------

  function neuron({ current, beta, threshold, alpha, loss }) {
    const u = [], o = [];
    let mem = 0, spk = 0;
    for (let t = 0; t < STEPS; t++) {
      mem = beta * ((1 - spk) * mem) + current; // Eq. 2
      spk = mem - threshold > 0 ? 1 : 0; // Eq. 3 and 4
      u.push(mem);
      o.push(spk);
    }
    const from = LOSSES.find((choice) => choice.name === loss).from;
    const rectangle = u.map((x) => (Math.abs(x - threshold) < 0.5 ? 1 : 0));
    const spatial = u.map((x, t) => (o[t] ? 1 / x : 0)); // Eq. 9
    const backward = (s, alpha) => {
      const du = new Array(STEPS);
      let next = 0;
      for (let t = STEPS - 1; t >= 0; t--) {
        next = s[t] * (t >= from ? 1 : 0) + beta * (1 - o[t] + alpha * s[t]) * next;
        du[t] = next;
      }
      return du;
    };
    return {
      u, o, from,
      flow: { "baseline": backward(rectangle, 0), "bpsa": backward(spatial, 0), "bpsa+bpta": backward(spatial, alpha) },
    };
  }

  // --- in words -----------------------------------------------------------------------------------

  const count = (n, what) => (n === 0 ? `no ${what}` : n === 1 ? `1 ${what}` : `${n} ${what}s`);

  function reach(du) {
    const first = du.findIndex((x) => x !== 0);
    if (first < 0) return "at no step";
    const last = STEPS - 1 - [...du].reverse().findIndex((x) => x !== 0);
    const steps = du.filter((x) => x !== 0).length;
    if (steps === 1) return `at step ${first + 1} only`;
    if (steps === last - first + 1) return `at steps ${first + 1} to ${last + 1}`;
    return `at ${steps} steps between ${first + 1} and ${last + 1}`;
  }

  function inWords({ u, o, from, flow }) {
    const spikes = o.filter(Boolean).length;
    const counted = o.filter((spk, t) => spk && t >= from).length;
    const fires = spikes === 0
      ? `No spike: the membrane stays at ${short(Math.max(...u))} or below.`
      : `${count(spikes, "spike")} in ${STEPS} steps, ${spikes === counted ? (spikes === 1 ? "counted" : "all counted") :
        `${counted || "none"} of them counted`} in the loss.`;
    const [plain, bpsa, both] = VARIANTS.map(({ name }) => reach(flow[name]));
    const same = bpsa === both ? `with BPSA, with or without BPTA, ${bpsa}` : `with BPSA ${bpsa}, with BPSA + BPTA ${both}`;
    const largest = Math.max(...flow["bpsa+bpta"]);
    const grown = largest >= 100 ? ` With BPTA it grows to ${short(largest)}.` : "";
    return `${fires} The error arrives: with plain backpropagation ${plain}; ${same}.${grown}`;
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
    return rounded >= 1e4 ? rounded.toExponential().replace("e+", "e") : String(rounded);
  }

  function ticks(top, wanted = 4) {
    const rough = top / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999) * power;
    return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => i * step);
  }

  const MARKS = {
    circle: (x, y) => `M${x - 2.5} ${y}a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0z`,
    square: (x, y) => `M${x - 3.5} ${y - 3.5}h7v7h-7z`,
    diamond: (x, y) => `M${x} ${y - 3.5}l3.5 3.5l-3.5 3.5l-3.5 -3.5z`,
  };
  const MARK = { "u": "circle", "bpsa": "square", "bpsa+bpta": "diamond" };
  const LEFT = 46, RIGHT = 8, TOP = 8;

  // Empties `svg` and returns the scales, with the grid, the counted steps and the axes drawn.
  function axes(svg, { width, height, top, from, labels, numbered }) {
    const bottom = numbered ? 34 : 8;
    const full = height + TOP + bottom;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${full}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", full);
    const slot = (width - LEFT - RIGHT) / STEPS;
    const x = (t) => LEFT + (t + 0.5) * slot;
    const y = (value) => TOP + height * (1 - value / top);
    svg.append(make("svg:rect", { class: "counted", x: x(from) - slot / 2, y: TOP, width: slot * (STEPS - from), height }));
    for (const value of labels) {
      svg.append(make("svg:line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      svg.append(make("svg:text", { class: "tick", x: LEFT - 6, y: y(value), "text-anchor": "end", dy: "0.32em",
        "data-value": value }, short(value)));
    }
    if (numbered) {
      for (let t = 0; t < STEPS; t++) {
        if (t === 0 || (t + 1) % 4 === 0) {
          svg.append(make("svg:text", { class: "step", x: x(t), y: TOP + height + 15, "text-anchor": "middle" }, t + 1));
        }
      }
      svg.append(make("svg:text", { class: "name", x: (LEFT + width - RIGHT) / 2, y: TOP + height + 30, "text-anchor": "middle" },
        "time step t"));
    }
    return { x, y };
  }

  function curve(svg, name, values, { x, y }) {
    const points = values.map((value, t) => [x(t), y(value)].map((p) => Math.round(p * 1000) / 1000));
    svg.append(make("svg:polyline", { class: "curve", "data-series": name, "data-values": JSON.stringify(values),
      points: points.map((p) => p.join(",")).join(" ") }));
    if (!MARK[name]) return;
    svg.append(make("svg:path", { class: "marks", "data-series": name, d: points.map((p) => MARKS[MARK[name]](...p)).join("") }));
  }

  function drawMembrane(svg, width, { threshold }, { u, o, from }) {
    const largest = Math.max(threshold, ...u) * 1.12;
    const scale = axes(svg, { width, height: 110, top: largest, from, labels: ticks(largest), numbered: false });
    const line = scale.y(threshold);
    svg.append(make("svg:line", { class: "threshold", "data-value": threshold, x1: LEFT, x2: width - RIGHT, y1: line, y2: line }));
    curve(svg, "u", u, scale);
    svg.append(make("svg:path", { class: "fired",
      d: u.map((value, t) => (o[t] ? MARKS.circle(scale.x(t), scale.y(value)) : "")).join("") }));
    svg.setAttribute("aria-label", `Membrane u over ${STEPS} steps, largest ${short(Math.max(...u))}`);
  }

  function drawSpikes(svg, width, { o, from }) {
    const { x, y } = axes(svg, { width, height: 34, top: 1, from, labels: [0, 1], numbered: false });
    svg.append(make("svg:path", { class: "spikes", "data-series": "o", "data-values": JSON.stringify(o),
      d: o.map((spk, t) => (spk ? `M${x(t)} ${y(0)}V${y(1)}` : "")).join("") }));
    const steps = o.flatMap((spk, t) => (spk ? [t + 1] : []));
    svg.setAttribute("aria-label", steps.length ? `Spikes at steps ${steps.join(", ")}` : "No spikes");
  }

  function drawFlow(svg, width, { flow, from }) {
    const largest = Math.max(...VARIANTS.flatMap(({ name }) => flow[name])) * 1.08 || 1;
    const scale = axes(svg, { width, height: 160, top: largest, from, labels: ticks(largest), numbered: true });
    for (const { name } of VARIANTS) curve(svg, name, flow[name], scale);
    svg.setAttribute("aria-label", "Gradient dL/du over the steps. " +
      VARIANTS.map(({ name, label }) => `${label}: ${reach(flow[name])}`).join("; "));
  }

  // --- the page -----------------------------------------------------------------------------------

  function sample(name) {
    return make("svg:svg", { class: "sample", width: 30, height: 12, "aria-hidden": "true" },
      make("svg:line", { class: "curve", "data-series": name, x1: 1, x2: 29, y1: 6, y2: 6 }),
      ...(MARK[name] ? [make("svg:path", { class: "marks", "data-series": name, d: MARKS[MARK[name]](15, 6) })] : []));
  }

  function figure(caption, ...legend) {
    const svg = make("svg:svg", { role: "img" });
    return [svg, make("figure", {}, make("figcaption", {}, make("span", {}, caption), ...legend), svg)];
  }

  function build(root) {
    const inputs = {}, outputs = {}, controls = make("div", { class: "controls" });
    for (const { name, label, min, max, value } of SLIDERS) {
      const id = `playground-${name}`;
      inputs[name] = make("input", { id, type: "range", min, max, step: 0.01, value });
      outputs[name] = make("output", { for: id });
      controls.append(make("div", { class: "control" }, make("label", { for: id }, label), outputs[name], inputs[name]));
    }
    inputs.loss = make("select", { id: "playground-loss" },
      ...LOSSES.map(({ name, label }) => make("option", { value: name }, label)));
    controls.append(make("div", { class: "control loss" },
      make("label", { for: "playground-loss" }, "the loss counts"), inputs.loss));

    const buttons = make("div", { class: "experiments", role: "group", "aria-label": "Experiments" });
    for (const { label, values } of EXPERIMENTS) {
      const button = make("button", { type: "button" }, label);
      button.addEventListener("click", () => {
        for (const [name, value] of Object.entries(values)) inputs[name].value = value;
        draw();
      });
      buttons.append(button);
    }

    const words = make("p", { class: "words", role: "status", "aria-live": "polite" });
    const legend = make("ul", { class: "legend" },
      ...VARIANTS.map(({ name, label }) => make("li", {}, sample(name), label)));
    const [membrane, membraneFigure] = figure("Membrane u[t]; dashed: the threshold; dots: it fires");
    const [spikes, spikesFigure] = figure("Spikes o[t]; shaded: the steps that the loss counts");
    const [flow, flowFigure] = figure("Gradient dL/du[t]", legend);
    const plots = make("div", { class: "plots" }, membraneFigure, spikesFigure, flowFigure);
    root.replaceChildren(buttons, controls, words, plots);

    let drawn = "";
    function draw() {
      const values = { loss: inputs.loss.value };
      for (const { name } of SLIDERS) {
        values[name] = Number(inputs[name].value);
        outputs[name].textContent = values[name].toFixed(2);
      }
      const width = plots.clientWidth;
      const wanted = JSON.stringify([values, width]);
      if (wanted === drawn || width === 0) return;
      drawn = wanted;
      const result = neuron(values);
      drawMembrane(membrane, width, values, result);
      drawSpikes(spikes, width, result);
      drawFlow(flow, width, result);
      const text = inWords(result);
      if (words.textContent !== text) words.textContent = text;
    }
    for (const input of Object.values(inputs)) input.addEventListener("input", draw);
    new ResizeObserver(draw).observe(plots);
    draw();
  }

  document.querySelectorAll(".playground-figure").forEach((node) => node.remove());
  document.querySelectorAll(".playground").forEach(build);
})();
