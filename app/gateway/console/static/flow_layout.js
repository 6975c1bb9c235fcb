// Where the parts of the flow diagram are, on wide and on narrow pages, and the ways between them.

export const CONNECTIONS = [
  ["client", "gateway"], ["gateway", "orders"], ["orders", "payments"], ["payments", "provider"],
  ["orders", "mongo"], ["payments", "mongo"],
];
export const NAMES = {
  client: "Client", gateway: "Gateway", orders: "Orders", payments: "Payments", provider: "Provider", mongo: "MongoDB",
};
// Each label shows the figures of a stage beside a connection; `at` is the position of its first line.
export const WIDE = {
  size: [1200, 330], box: [142, 92],
  places: {
    client: [85, 92], gateway: [342, 92], orders: [599, 92], payments: [858, 92], provider: [1115, 92], mongo: [728, 272],
  },
  labels: [
    { stage: "gateway received", at: [213, 44], arrow: "→" },
    { stage: "orders received", at: [470, 44], arrow: "→" },
    { stage: "event handed to payments", at: [728, 44], arrow: "→" },
    { stage: "result handed to orders", at: [728, 120], arrow: "←" },
    { stage: "payment processed", at: [986, 44], arrow: "⇄" },
    { stage: "order stored", at: [462, 206], name: "stored" },
    { stage: "order updated", at: [590, 206], name: "updated" },
  ],
};
export const NARROW = {
  size: [380, 600], box: [134, 88],
  places: {
    client: [78, 56], gateway: [78, 212], orders: [78, 376], payments: [302, 376], provider: [302, 212], mongo: [190, 546],
  },
  labels: [
    { stage: "gateway received", at: [90, 121], arrow: "→", anchor: "start" },
    { stage: "orders received", at: [90, 281], arrow: "→", anchor: "start" },
    { stage: "event handed to payments", at: [190, 330], arrow: "→" },
    { stage: "result handed to orders", at: [190, 404], arrow: "←" },
    { stage: "payment processed", at: [290, 281], arrow: "⇄", anchor: "end" },
    { stage: "order stored", at: [56, 450], name: "stored" },
    { stage: "order updated", at: [56, 510], name: "updated" },
  ],
};

const NEIGHBOURS = {};
for (const [one, other] of CONNECTIONS) {
  (NEIGHBOURS[one] ??= []).push(other);
  (NEIGHBOURS[other] ??= []).push(one);
}

// The boxes on the path from one to another, without the first.
export function route(from, to) {
  const seen = { [from]: [] };
  const queue = [from];
  while (queue.length) {
    const box = queue.shift();
    if (box === to) return seen[box];
    for (const next of NEIGHBOURS[box]) if (!(next in seen)) { seen[next] = [...seen[box], next]; queue.push(next); }
  }
  return [];
}
