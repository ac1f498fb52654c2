// The plots of the report: what they show, and the function that draws them with uPlot inside the page.
import { RATIO_MIN_LIVE_BYTES, type Timeline } from '../replay/timeline';

/** One line of a plot; `color` names a custom property of the page's style. */
export interface Series {
  label: string;
  color: string;
  values: (number | null)[];
  filled?: boolean;
}

/** `element` is the id of the element that gets the plot. */
export interface Chart {
  element: string;
  unit: string;
  digits: number;
  x: number[];
  series: Series[];
  logarithmic?: boolean;
  points?: boolean;
}

const MIB = 1 << 20;

export function chartsOf({ samples, collects }: Timeline): Chart[] {
  const steps = samples.map(({ step }) => step);
  const mib = (value: number) => Number((value / MIB).toFixed(3));
  const perLive = (of: 'committed' | 'pages4k' | 'pages16k') =>
    samples.map((sample) =>
      sample.live < RATIO_MIN_LIVE_BYTES ? null : Number((sample[of] / sample.live).toFixed(4)),
    );
  const page4k = { label: 'page per executor, 4 KB', color: '--pages4k' };
  const page16k = { label: 'page per executor, 16 KB', color: '--pages16k' };
  const micros = (moving: boolean) =>
    collects.map((collect) => (collect.moved > 0 === moving ? Number(collect.micros.toFixed(1)) : null));
  return [
    {
      element: 'memory',
      unit: 'MiB',
      digits: 2,
      x: steps,
      series: [
        { label: 'live', color: '--live', values: samples.map(({ live }) => mib(live)), filled: true },
        { label: 'committed', color: '--committed', values: samples.map(({ committed }) => mib(committed)) },
        { ...page4k, values: samples.map(({ pages4k }) => mib(pages4k)) },
        { ...page16k, values: samples.map(({ pages16k }) => mib(pages16k)) },
      ],
    },
    {
      element: 'ratio',
      unit: '× live',
      digits: 3,
      x: steps,
      series: [
        { label: 'committed', color: '--committed', values: perLive('committed') },
        { ...page4k, values: perLive('pages4k') },
        { ...page16k, values: perLive('pages16k') },
      ],
    },
    {
      element: 'pauses',
      unit: 'µs',
      digits: 0,
      x: collects.map(({ step }) => step),
      logarithmic: true,
      points: true,
      series: [
        { label: 'moved executors', color: '--live', values: micros(true) },
        { label: 'moved nothing', color: '--muted', values: micros(false) },
      ],
    },
  ];
}

// The little of a browser that is used below; the package is compiled without a browser's types.
interface PageElement {
  clientWidth: number;
  replaceChildren(): void;
}
interface Page {
  document: { getElementById(id: string): PageElement; documentElement: PageElement };
  getComputedStyle(element: PageElement): { getPropertyValue(name: string): string };
  matchMedia(query: string): { addEventListener(event: 'change', listener: () => void): void };
  addEventListener(event: 'resize', listener: () => void): void;
}
type PlotLibrary = new (options: object, data: (number | null)[][], element: PageElement) => object;

/** Runs in the page: its text is put there, so it can use nothing but its arguments. */
export function drawCharts(charts: Chart[], uPlot: PlotLibrary, page: Page): void {
  const color = (name: string) => page.getComputedStyle(page.document.documentElement).getPropertyValue(name).trim();
  // Narrow no-break spaces between thousands.
  const grouped = (value: number) => String(value).replace(/\B(?=(\d{3})+$)/g, '\u202f');
  const draw = (chart: Chart) => {
    const element = page.document.getElementById(chart.element);
    element.replaceChildren();
    const axis = { stroke: color('--muted'), grid: { stroke: color('--grid'), width: 1 }, ticks: { show: false } };
    const options = {
      width: element.clientWidth,
      height: 280,
      scales: { x: { time: false }, y: chart.logarithmic ? { distr: 3 } : {} },
      cursor: { points: { size: 7 } },
      axes: [
        {
          ...axis,
          label: 'steps: executors created and freed',
          labelFont: '13px system-ui, sans-serif',
          labelSize: 22,
          size: 30,
          values: (_: unknown, ticks: number[]) => ticks.map(grouped),
        },
        {
          ...axis,
          size: 84,
          values: (_: unknown, ticks: (number | null)[]) =>
            ticks.map((tick) => (tick === null ? '' : `${grouped(tick)} ${chart.unit}`)),
        },
      ],
      series: [
        { label: 'step', value: (_: unknown, step: number | null) => (step === null ? '–' : grouped(step)) },
        ...chart.series.map((series) => ({
          label: series.label,
          stroke: color(series.color),
          fill: series.filled ? color(`${series.color}-fill`) : undefined,
          width: 1.5,
          paths: chart.points ? () => null : undefined,
          points: { show: chart.points === true, size: 5, fill: color(series.color) },
          value: (_: unknown, value: number | null) =>
            value === null || value === undefined ? '–' : `${value.toFixed(chart.digits)} ${chart.unit}`,
        })),
      ],
    };
    new uPlot(options, [chart.x, ...chart.series.map(({ values }) => values)], element);
  };
  const drawAll = () => charts.forEach(draw);
  drawAll();
  page.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
  page.addEventListener('resize', drawAll);
}
