// The maximum flow of one pair, by Dinic's algorithm (1970), on the levels of a layer graph. Node = level * n + position.
// Edges go down from level l + 1 to level l; what was sent can be taken back, so each can also be gone up.

function maxFlow(weights, n, stage, source, sink) {
  const spare = weights.slice(0, (stage + 1) * n * n); // [layer, query, key]
  const least = 1e-13 * spare.reduce((most, each) => Math.max(most, each), 0); // crumbs of rounding carry nothing
  const graph = {weights, spare, n, top: stage + 1, least, start: (stage + 1) * n + source, end: sink};
  let value = 0;
  for (;;) {
    const depth = depths(graph);
    if (depth[sink] < 0) return {value, ...proof(graph, depth)};
    const tried = new Int32Array(depth.length);
    for (let sent; (sent = send(graph, depth, tried, graph.start, Infinity)) > 0; ) value += sent;
  }
}

// The first node of the level below and of the level above; -1 where there is none.
const below = ({n}, node) => (node < n ? -1 : (Math.floor(node / n) - 1) * n);
const above = ({n, top}, node) => (node >= top * n ? -1 : (Math.floor(node / n) + 1) * n);
const edgeOf = ({n}, upper, lower) => (Math.floor(lower / n) * n + (upper % n)) * n + (lower % n);

// What can still go from a node to one of the level below, or back to one of the level above.
function room(graph, node, next, isDown) {
  if (isDown) return graph.spare[edgeOf(graph, node, next)];
  const edge = edgeOf(graph, next, node);
  return graph.weights[edge] - graph.spare[edge];
}

// How many steps each node is from the source, over edges with room; -1 where none lead there.
function depths(graph) {
  const depth = new Int32Array((graph.top + 1) * graph.n).fill(-1);
  const queue = [graph.start];
  depth[graph.start] = 0;
  for (const node of queue) { // which grows meanwhile
    for (const first of [below(graph, node), above(graph, node)]) {
      for (let next = first; first >= 0 && next < first + graph.n; next++) {
        if (depth[next] >= 0 || room(graph, node, next, first < node) <= graph.least) continue;
        depth[next] = depth[node] + 1;
        queue.push(next);
      }
    }
  }
  return depth;
}

// Sends what it can along one shortest way to the sink. A node never goes back to a way that was found full.
function send(graph, depth, tried, node, limit) {
  if (node === graph.end) return limit;
  const {n, spare, least} = graph;
  const [down, up] = [below(graph, node), above(graph, node)];
  for (; tried[node] < 2 * n; tried[node]++) {
    const isDown = tried[node] < n;
    const first = isDown ? down : up;
    const next = first + (tried[node] % n);
    if (first < 0 || depth[next] !== depth[node] + 1) continue;
    const most = Math.min(limit, room(graph, node, next, isDown));
    const sent = most > least ? send(graph, depth, tried, next, most) : 0;
    if (sent <= 0) continue;
    spare[isDown ? edgeOf(graph, node, next) : edgeOf(graph, next, node)] += isDown ? -sent : sent;
    return sent;
  }
  return 0;
}

// The edges that carry flow, and the cut: what the source still reaches is on its side, and the capacity of the edges
// that leave it equals the flow.
function proof({n, weights, spare, least}, depth) {
  const edges = [];
  let capacity = 0;
  for (let edge = 0; edge < spare.length; edge++) {
    const amount = weights[edge] - spare[edge];
    const [layer, query, key] = [Math.floor(edge / (n * n)), Math.floor(edge / n) % n, edge % n];
    const [upper, lower] = [depth[(layer + 1) * n + query] >= 0, depth[layer * n + key] >= 0];
    if (upper && !lower) capacity += weights[edge];
    if (amount > least) edges.push([layer, query, key, 2 * upper + lower, amount]);
  }
  edges.sort((one, other) => other[4] - one[4]);
  return {capacity, n_edges: edges.length, edges};
}

// Some paths of a flow, each along the strongest edges that are left. Where the weak edges of a flow are not known,
// what leads nowhere is left out.
function strongestPaths(edges, source, sink, stage, most) {
  const waysOf = new Map();
  for (const [layer, query, key, , amount] of edges) {
    const node = `${layer + 1},${query}`;
    if (!waysOf.has(node)) waysOf.set(node, []);
    waysOf.get(node).push({key, amount});
  }
  const paths = [];
  while (paths.length < most) {
    const steps = [];
    for (let at = source; steps.length <= stage; at = steps.at(-1).key) {
      const ways = (waysOf.get(`${stage + 1 - steps.length},${at}`) ?? []).filter((way) => way.amount > 1e-9);
      if (!ways.length) break;
      steps.push(ways.reduce((best, way) => (way.amount > best.amount ? way : best)));
    }
    if (!steps.length) break;
    const amount = Math.min(...steps.map((step) => step.amount));
    if (steps.length > stage && steps[stage].key === sink) {
      paths.push({amount, nodes: [source, ...steps.map((step) => step.key)]});
      for (const step of steps) step.amount -= amount;
    } else steps.at(-1).amount = 0;
  }
  return paths.sort((one, other) => other.amount - one.amount);
}
