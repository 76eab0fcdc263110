/** The policy pack: `pulumi preview --policy-pack policy`. What it wants, and how it is relaxed, is in `docs/policy.md`. */
import { PolicyPack } from "@pulumi/policy";
import { policies } from "./policies.ts";

new PolicyPack("authentik-storage", { enforcementLevel: "mandatory", policies });
