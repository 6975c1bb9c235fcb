// Figures of the stages over the last seconds.

export const WINDOW_MS = 3000;

// Counts and durations of each stage over the last seconds, of all processes.
export class StageFigures {
  #statistics = [];

  add(statistics, now) {
    this.#statistics.push({ ...statistics, seen: now });
  }

  at(now) {
    this.#statistics = this.#statistics.filter((one) => now - one.seen < WINDOW_MS);
    const found = {};
    for (const one of this.#statistics) {
      for (const [stage, figures] of Object.entries(one.stages)) {
        const sum = (found[stage] ??= { count: 0, p50: 0, p99: 0 });
        sum.p50 += figures.p50 * figures.count;
        sum.count += figures.count;
        sum.p99 = Math.max(sum.p99, figures.p99);
      }
    }
    for (const sum of Object.values(found)) {
      sum.p50 /= sum.count || 1;
      sum.rate = sum.count / (WINDOW_MS / 1000);
    }
    return found;
  }
}
