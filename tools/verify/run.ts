/** One run of `verify`: the results of its checks, its time limit, and its leftovers. */
import { randomBytes } from "node:crypto";
import { setMaxListeners } from "node:events";
import type { StorageSettings } from "../../authentik/env.ts";
import { BUCKET_ACTIONS, type OBJECT_ACTIONS } from "../../authentik/permissions.ts";
import { releaseRules, type Release, type ReleaseRules } from "../../authentik/release.ts";
import {
  PERMISSIONS_PAGE,
  SYMPTOMS,
  diagnose,
  isFatal,
  type Failure,
  type Symptom,
} from "./diagnosis.ts";
import type { CheckResult } from "./report.ts";
import { failureOf } from "./request.ts";
import { Storage, type UploadOptions } from "./storage.ts";

/** The bucket that is verified. */
export interface Target {
  settings: StorageSettings;
  /** The origins under which browsers reach authentik. */
  origins: readonly string[];
  /** Without a release, the URLs of each generation of releases are tried. */
  release?: Release | undefined;
  /** Whether the settings have names that no release before 2025.12 reads. */
  hasGeneralNames?: boolean | undefined;
  /** Whether the key is the key of the bucket's administrator. Undefined if that is not known. */
  keyIsAdmin?: boolean | undefined;
  /** Another URL at which the files must not be readable. */
  publicUrl?: string | undefined;
  /** The bucket's name for `npm run migrate`: `stack:prod`, `env:.env`. */
  argument?: string | undefined;
}

export interface VerifyOptions {
  /** The limit of the whole run, cleanup included. The default is 30 s. */
  timeoutMs?: number | undefined;
  /**
   * How long a key that the server refuses is tried again, because it may be new. The default is 0.
   */
  newKeyMs?: number | undefined;
  /** Looks at the content type of every stored file, and not of a sample. */
  allTypes?: boolean | undefined;
  /** Ends the run early. The run still cleans up. */
  signal?: AbortSignal | undefined;
}

/** The part of a run's time that is kept for cleanup. */
const CLEANUP_MS = 6_000;
/** The least time for cleanup, after a request that must not be aborted. */
const MIN_CLEANUP_MS = 1_000;

interface CheckFailureOptions {
  status?: "failed" | "warning";
  /** Replaces the advice of the symptom. */
  advice?: string | undefined;
}

/** Why a check did not pass. A check throws it if it knows more than the failed request shows. */
export class CheckFailure extends Error {
  override name = "CheckFailure";
  readonly symptom: Symptom;
  readonly status: "failed" | "warning";
  readonly advice: string;

  /** @param got what came back */
  constructor(symptom: Symptom, got: string, options: CheckFailureOptions = {}) {
    super(got);
    const { status = "failed", advice = SYMPTOMS[symptom] } = options;
    this.symptom = symptom;
    this.status = status;
    this.advice = advice;
  }
}

/** A failure in a few words: the status, the code, the server's message. */
export function describe({ status, code, message }: Failure): string {
  const isCodeStatus = code === `HTTP ${status}`;
  const head = isCodeStatus || status === undefined ? `${status ?? code}` : `${status} ${code}`;
  if (message === "" || message === code) return head;
  return `${head}: ${message.replaceAll(/\s+/g, " ").slice(0, 300)}`;
}

/**
 * The refusal of a request that must be refused, in words. A failure of the server is not a refusal,
 * unless the server says that it does not have the function.
 */
export function refusal(failure: Failure): string {
  const { status = 500, code } = failure;
  if (code === "NotS3Error") throw new CheckFailure("not-s3", describe(failure));
  if (status < 500 || status === 501 || code === "NotImplemented") {
    return `refused: ${status} ${code}`.replace(` HTTP ${status}`, "");
  }
  const advice = "The server failed, so it is not known whether it refuses this. Read its log.";
  throw new CheckFailure("unknown", describe(failure), { status: "warning", advice });
}

/** An action that authentik's key needs. */
export type Action = (typeof BUCKET_ACTIONS)[number] | (typeof OBJECT_ACTIONS)[number];

/** The message about a key that is not allowed an action. */
export function lacks(action: Action): string {
  const isOnBucket = BUCKET_ACTIONS.some((bucketAction) => bucketAction === action);
  return `The key lacks ${action} on the bucket${isOnBucket ? "" : "'s objects"}.`;
}

/** What to do about a missing permission. */
export function grant(action: Action): string {
  return `${lacks(action)} Grant it: ${PERMISSIONS_PAGE} lists all permissions.`;
}

/** One check. */
export interface Check {
  name: string;
  /** The requests that it makes. */
  tried: string;
  /** The action that the key lacks if access is denied. */
  action?: Action;
}

type Outcome = Pick<CheckResult, "status" | "got" | "symptom" | "advice">;

/** The state that the checks of a run share. */
export class VerifyRun {
  readonly target: Target;
  readonly rules: ReleaseRules;
  readonly storage: Storage;
  readonly id = randomBytes(6).toString("hex");
  /**
   * The objects that may exist, and the multipart uploads that were started: upload ids and keys.
   */
  readonly leftovers = { objects: new Set<string>(), uploads: new Map<string, string>() };
  /**
   * How files are uploaded. If the server refuses something that authentik sends, it is left out
   * from then on, so that the other checks can be made.
   */
  upload: UploadOptions;
  /** Whether the server stores its objects in Azure Blob Storage. Known after the first upload. */
  isAzure = false;
  readonly newKeyMs: number;
  readonly allTypes: boolean;
  private readonly interruption: AbortSignal | undefined;
  /** In the order in which the checks began, which is the same in every run. */
  private readonly recorded: (CheckResult | undefined)[] = [];
  private readonly controller = new AbortController();
  private readonly deadline: NodeJS.Timeout;
  private readonly endsAt: number;
  private readonly end = () => {
    this.controller.abort();
  };

  constructor(target: Target, options: VerifyOptions) {
    const { timeoutMs = 30_000, newKeyMs = 0, allTypes = false, signal } = options;
    // Each of the requests that run at the same time adds a listener.
    setMaxListeners(0, this.signal);
    this.endsAt = performance.now() + timeoutMs;
    this.deadline = setTimeout(this.end, Math.max(1, timeoutMs - CLEANUP_MS));
    signal?.addEventListener("abort", this.end);
    if (signal?.aborted === true) this.end();
    this.target = target;
    this.rules = releaseRules(target.release);
    this.newKeyMs = newKeyMs;
    this.allTypes = allTypes;
    this.interruption = signal;
    this.upload = { acl: true, checksums: target.settings.checksums !== "when_required" };
    this.storage = new Storage(target.settings, this.rules, this.signal);
  }

  get results(): CheckResult[] {
    return this.recorded.filter((result) => result !== undefined);
  }

  /** Aborted when the run's time is over or the run is interrupted. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** How long cleanup may take from now on. */
  get cleanupMs(): number {
    return Math.min(CLEANUP_MS, Math.max(MIN_CLEANUP_MS, this.endsAt - performance.now()));
  }

  /** Frees the run's timer and connections. */
  close(): void {
    clearTimeout(this.deadline);
    this.interruption?.removeEventListener("abort", this.end);
    this.storage.close();
  }

  /**
   * Makes one check and records its result.
   *
   * @param work returns what came back. It throws a `CheckFailure`, or the error of a request,
   *   which is then diagnosed.
   * @returns the symptom if the check did not pass
   */
  async check(check: Check, work: () => Promise<string>): Promise<Symptom | undefined> {
    const place = this.recorded.push(undefined) - 1;
    const start = performance.now();
    const outcome = await work().then(
      (got): Outcome => ({ status: "ok", got }),
      (error: unknown) => this.outcomeOf(error, check.action),
    );
    const milliseconds = Math.round(performance.now() - start);
    this.recorded[place] = { check: check.name, tried: check.tried, ...outcome, milliseconds };
    return outcome.symptom;
  }

  skip(check: string, reason: string): void {
    const result = { check, status: "skipped", tried: "nothing", got: reason } as const;
    this.recorded.push({ ...result, milliseconds: 0 });
  }

  /** Whether no other check can pass: the symptom is fatal, or the run has ended. */
  isOver(symptom: Symptom | undefined): boolean {
    return this.signal.aborted || (symptom !== undefined && isFatal(symptom));
  }

  /** Records that the run ended early, so that it does not look like a complete run. */
  recordEnd(): void {
    if (!this.signal.aborted) return;
    const isInterrupted = this.interruption?.aborted === true;
    const symptom = isInterrupted ? "interrupted" : "timeout";
    this.recorded.push({
      check: "run",
      status: "failed",
      tried: "all checks",
      got: isInterrupted ? "the run was interrupted" : "the run's time was over",
      symptom,
      advice: SYMPTOMS[symptom],
      milliseconds: 0,
    });
  }

  private outcomeOf(error: unknown, action: Action | undefined): Outcome {
    if (error instanceof CheckFailure) {
      const { status, symptom, message, advice } = error;
      return { status, symptom, got: message, advice };
    }
    const failure = failureOf(error);
    const symptom = this.symptomOf(failure);
    const isDenied = symptom === "missing-permission" && action !== undefined;
    const advice = isDenied ? grant(action) : SYMPTOMS[symptom];
    return { status: "failed", symptom, got: describe(failure), advice };
  }

  /** The diagnosis of a failure in this run. */
  symptomOf(failure: Failure): Symptom {
    const symptom = diagnose(failure);
    const isTimeout = symptom === "interrupted" && this.interruption?.aborted !== true;
    return isTimeout ? "timeout" : symptom;
  }
}
