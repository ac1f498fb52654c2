import { defineProperty } from './primordials';

/** Where in an executor an error lies; absent fields are unknown or do not apply. */
export interface ErrorDetails {
  /** Id of the executor. */
  executor?: number;
  section?: Section;
  /** Bytes from the start of the section. */
  offset?: number;
  /** The reloc kind, by its psABI name. */
  kind?: string;
  /** Position in the list that was passed: of the executor, or of the reloc where there was one executor. */
  index?: number;
}

/** The three parts of an executor. */
export type Section = 'code' | 'data' | 'state';

const detailNames = ['executor', 'section', 'offset', 'kind', 'index'] as const;

/**
 * What an arena refuses, with a stable `code` (`ERR_ARENA_…`, each explained in docs/errors.md). Nothing has changed
 * when one is thrown. Messages may change; codes do not. Arguments of a wrong type are a `TypeError` instead.
 */
export class ArenaError extends Error implements ErrorDetails {
  override readonly name = 'ArenaError';
  readonly code: string;
  declare readonly executor?: number;
  declare readonly section?: Section;
  declare readonly offset?: number;
  declare readonly kind?: string;
  declare readonly index?: number;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message);
    this.code = code;
    for (let i = 0; i < detailNames.length; i++) {
      const name = detailNames[i] as keyof ErrorDetails;
      if (details[name] !== undefined) defineProperty(this, name, { value: details[name], enumerable: true });
    }
  }
}
