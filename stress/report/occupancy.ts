// The page-occupancy map: one row per slab, one cell per page, darker where more of the page is live.
import type { SlabMap } from 'jit-arena';
import { bytes, plural } from './format';

const PAGE_BYTES = 4096;
const CELL = 7;
const PITCH = 8;
const HEADING = 16;
/** A slab is a row of this many pages; a larger one goes on in the next row. */
const PAGES_PER_ROW = 64;
/** Steps of the colour scale; level 0 is backed but empty. */
export const LEVELS = 5;

/**
 * SVG pictures of the slabs at two moments. A slab has the same place in both, also where it is there only once. The
 * classes of the cells are coloured by the report's style.
 */
export function occupancyMaps(before: SlabMap[], after: SlabMap[]): [before: string, after: string] {
  const places = new Map([...before, ...after].map((slab) => [slab.address, slab]));
  const rows = [...places.values()].sort((a, b) => compare(a.kind, b.kind) || compare(a.address, b.address));
  return [occupancyMap(rows, before), occupancyMap(rows, after)];
}

/** What a map adds up to, in words. */
export function inWords(slabs: SlabMap[]): string {
  const sum = (of: (slab: SlabMap) => number) => slabs.reduce((total, slab) => total + of(slab), 0);
  const backed = sum((slab) => slab.backedPages);
  return `${plural(slabs.length, 'slab')}, ${plural(backed, 'page')} of memory, ${filled(
    sum((slab) => slab.liveBytes),
    backed,
  )}`;
}

function occupancyMap(rows: SlabMap[], slabs: SlabMap[]): string {
  const present = new Map(slabs.map((slab) => [slab.address, slab]));
  const cells = new Map<string, string>();
  const texts: string[] = [];
  let y = 0;
  let kind = '';
  for (const row of rows) {
    if (row.kind !== kind) {
      kind = row.kind;
      y += HEADING;
      texts.push(`<text x="0" y="${y - 5}">${kind}</text>`);
    }
    const slab = present.get(row.address);
    const pages = row.liveBytesPerPage.length;
    for (let page = 0; page < pages; page++) {
      const level = slab?.backed[page] ? levelOf(slab.liveBytesPerPage[page]!) : 'none';
      const position = `${(page % PAGES_PER_ROW) * PITCH} ${y + Math.floor(page / PAGES_PER_ROW) * PITCH}`;
      cells.set(level, `${cells.get(level) ?? ''}M${position}h${CELL}v${CELL}h-${CELL}z`);
    }
    const height = Math.ceil(pages / PAGES_PER_ROW) * PITCH;
    texts.push(
      `<rect y="${y}" width="${PAGES_PER_ROW * PITCH}" height="${height}"><title>${hint(slab)}</title></rect>`,
    );
    y += height;
  }
  const paths = [...cells].map(([level, path]) => `<path class="${level}" d="${path}"/>`);
  return `<svg class="map" viewBox="0 0 ${PAGES_PER_ROW * PITCH} ${Math.max(1, y)}">
${[...paths, ...texts].join('\n')}
</svg>`;
}

function hint(slab: SlabMap | undefined): string {
  if (!slab) return 'no slab here';
  const pages = `${slab.backedPages} of ${slab.liveBytesPerPage.length} pages backed`;
  return `${slab.kind}: ${bytes(slab.liveBytes)} live, ${pages}, ${filled(slab.liveBytes, slab.backedPages)}`;
}

function filled(liveBytes: number, backedPages: number): string {
  return `${((100 * liveBytes) / Math.max(1, backedPages * PAGE_BYTES)).toFixed(1)} % of it live`;
}

function levelOf(liveBytes: number): string {
  return liveBytes === 0 ? 'l0' : `l${Math.min(LEVELS, 1 + Math.floor((liveBytes / PAGE_BYTES) * LEVELS))}`;
}

function compare<T extends string | bigint>(a: T, b: T): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
