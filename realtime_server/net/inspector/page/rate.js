/** How many changes came in each of the last sixty seconds. */

const SECONDS = 60;
/** The shown rate is a mean over these, so that it can be read. */
const MEAN_OVER = 3;

export class Rate {
  #counts = new Array(SECONDS).fill(0);
  #current = second();

  count() {
    this.#advance();
    this.#counts[SECONDS - 1] += 1;
  }

  /** Changes per second, lately. The running second is not over, so it does not count. */
  get perSecond() {
    this.#advance();
    const counts = this.#counts.slice(-1 - MEAN_OVER, -1);
    return counts.reduce((sum, count) => sum + count, 0) / MEAN_OVER;
  }

  /** The outline of the last minute for an SVG path, 60 wide and 20 high. */
  get outline() {
    this.#advance();
    const most = Math.max(...this.#counts, 1);
    const points = this.#counts.slice(0, -1).map((count, x) => `L${x} ${20 - (18 * count) / most}`);
    return `M0 20${points.join("")}L${SECONDS - 2} 20Z`;
  }

  #advance() {
    const passed = Math.min(second() - this.#current, SECONDS);
    if (passed > 0) {
      this.#counts = [...this.#counts.slice(passed), ...new Array(passed).fill(0)];
      this.#current = second();
    }
  }
}

function second() {
  return Math.floor(performance.now() / 1_000);
}
