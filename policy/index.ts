/** The policy pack: `pulumi preview --policy-pack policy`. `docs/policy.md` describes it. */
import { PolicyPack } from "@pulumi/policy";
import { policies } from "./policies.ts";

new PolicyPack("authentik-storage", { enforcementLevel: "mandatory", policies });
