/** One run: its checks' results, its time limit, and what it has to clean up. */
import { randomBytes } from "node:crypto";
import { setMaxListeners } from "node:events";
import type { StorageSettings } from "../../authentik/env.ts";
import { releaseRules, type Release, type ReleaseRules } from "../../authentik/release.ts";
import { SYMPTOMS, diagnose, isFatal, type Failure, type Symptom } from "./diagnosis.ts";
import type { CheckResult } from "./report.ts";
import { Storage, failureOf, type UploadOptions } from "./storage.ts";

/** What is verified. */
export interface Target {
  settings: StorageSettings;
  /** Under which browsers reach authentik. */
  origins: readonly string[];
  /** Without one, the URLs of each generation of releases are tried. */
  release?: Release | undefined;
  /** Whether the settings have names that no release before 2025.12 reads. */
  hasGeneralNames?: boolean | undefined;
  /** Whether the key is known to be the bucket's administrator's, or known not to be. */
  keyIsAdmin?: boolean | undefined;
}

export interface VerifyOptions {
  /** For the whole run, cleaning up included. 30 s by default. */
  timeoutMs?: number | undefined;
  /** How long a key that the server refuses is tried again, as it may be new. 0 by default. */
  newKeyMs?: number | undefined;
  /** Ends the run early; it still cleans up. */
  signal?: AbortSignal | undefined;
}

/** Kept of a run's time for cleaning up. */
const CLEANUP_MS = 6_000;

/** A check that did not go well, with more than its request's failure can tell. */
export class Finding extends Error {
  override name = "Finding";
  readonly symptom: Symptom;
  readonly status: "failed" | "warning";
  /** Instead of the symptom's own. */
  readonly advice: string | undefined;
  constructor(symptom: Symptom, got: string, { status = "failed", advice }: { status?: "failed" | "warning"; advice?: string | undefined } = {}) {
    super(got);
    this.symptom = symptom;
    this.status = status;
    this.advice = advice;
  }
}

/** A failure in a few words: the status, the code, the server's own message. */
export function describe({ status, code, message }: Failure): string {
  const head = status === undefined ? code : [status, ...(code === `HTTP ${status}` ? [] : [code])].join(" ");
  return message === "" || message === code ? head : `${head}: ${message.replaceAll(/\s+/g, " ").slice(0, 300)}`;
}

/** What to do about a missing permission. */
export function lacks(permission: string): string {
  return `The key lacks ${permission}. Grant it; authentik/permissions.ts has the whole list.`;
}

/** The state that the checks of a run share. */
export class Run {
  readonly target: Target;
  readonly storage: Storage;
  readonly id = randomBytes(6).toString("hex");
  /** Objects that may be there, and uploads in parts that were begun: upload ids to keys. */
  readonly leftovers = { objects: new Set<string>(), uploads: new Map<string, string>() };
  /** How uploads are made; less than authentik's once the server has refused something, so that the rest can be tried. */
  upload: UploadOptions;
  readonly newKeyMs: number;
  private readonly interruption: AbortSignal | undefined;
  /** In the order in which the checks began, which does not vary as their ends do. */
  private readonly recorded = new Map<number, CheckResult>();
  private begun = 0;
  private readonly controller = new AbortController();
  private readonly deadline: NodeJS.Timeout;
  private readonly end = () => { this.controller.abort(); };

  constructor(target: Target, options: VerifyOptions) {
    const { timeoutMs = 30_000, newKeyMs = 0, signal } = options;
    // Each of the requests that run at the same time listens.
    setMaxListeners(0, this.signal);
    this.deadline = setTimeout(this.end, Math.max(1, timeoutMs - CLEANUP_MS));
    signal?.addEventListener("abort", this.end);
    if (signal?.aborted === true) this.end();
    this.target = target;
    this.newKeyMs = newKeyMs;
    this.interruption = signal;
    this.upload = { acl: true, checksums: target.settings.checksums !== "when_required" };
    this.storage = new Storage(target.settings, this.rules, this.signal);
  }

  get results(): CheckResult[] {
    return [...this.recorded].sort(([left], [right]) => left - right).map(([, result]) => result);
  }

  /** Aborted when the run's time is over or it is interrupted. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Frees what the run holds. */
  close(): void {
    clearTimeout(this.deadline);
    this.interruption?.removeEventListener("abort", this.end);
    this.storage.close();
  }

  get rules(): ReleaseRules {
    return releaseRules(this.target.release);
  }

  /**
   * Runs one check and records how it went.
   *
   * @param work returns what came back; it throws a `Finding`, or a request's failure, which is then diagnosed
   * @param permission what the key lacks where access is denied
   * @returns the symptom, where it did not go well
   */
  async check(check: string, tried: string, work: () => Promise<string>, permission?: string): Promise<Symptom | undefined> {
    const place = this.begun++;
    const start = performance.now();
    const end = (result: Pick<CheckResult, "status" | "got" | "symptom" | "advice">) => {
      this.record(place, { check, tried, ...result, milliseconds: Math.round(performance.now() - start) });
      return result.symptom;
    };
    try {
      return end({ status: "ok", got: await work() });
    } catch (error) {
      if (error instanceof Finding) {
        const { status, symptom, message, advice } = error;
        return end({ status, symptom, got: message, advice: advice ?? SYMPTOMS[symptom] });
      }
      const failure = failureOf(error);
      const symptom = this.symptomOf(failure);
      const advice = symptom === "missing-permission" && permission !== undefined ? lacks(permission) : SYMPTOMS[symptom];
      return end({ status: "failed", symptom, got: describe(failure), advice });
    }
  }

  skip(check: string, why: string): void {
    this.record(this.begun++, { check, status: "skipped", tried: "nothing", got: why, milliseconds: 0 });
  }

  /** Whether nothing more can be told: a fatal symptom, or the run was ended. */
  isOver(symptom: Symptom | undefined): boolean {
    return this.signal.aborted || (symptom !== undefined && isFatal(symptom));
  }

  /** Records that the run was ended before it was through, so that it does not pass for a whole one. */
  recordEnd(): void {
    if (!this.signal.aborted) return;
    const symptom = this.interruption?.aborted === true ? "interrupted" : "timeout";
    const got = symptom === "interrupted" ? "the run was interrupted" : "the run's time was over";
    this.record(this.begun++, { check: "run", status: "failed", tried: "all checks", got, symptom, advice: SYMPTOMS[symptom], milliseconds: 0 });
  }

  private symptomOf(failure: Failure): Symptom {
    const symptom = diagnose(failure);
    return symptom === "interrupted" && this.interruption?.aborted !== true ? "timeout" : symptom;
  }

  private record(place: number, result: CheckResult): void {
    this.recorded.set(place, result);
  }
}
