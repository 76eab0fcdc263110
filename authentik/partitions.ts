/** AWS's partitions. Source: botocore's `partitions.json`. */

/**
 * A group of AWS regions that share accounts, the second field of ARNs, and the DNS suffix of their
 * services.
 */
export interface Partition {
  id: string;
  /**
   * The form of its regions' names. Regions that AWS adds later fit too, so there is no list to
   * keep.
   */
  regions: RegExp;
  dnsSuffix: string;
}

const AWS: Partition = {
  id: "aws",
  regions: /^(?:us|eu|ap|sa|ca|me|af|il|mx)-\w+-\d+$/,
  dnsSuffix: "amazonaws.com",
};

const PARTITIONS: readonly Partition[] = [
  { id: "aws-cn", regions: /^cn-\w+-\d+$/, dnsSuffix: "amazonaws.com.cn" },
  { id: "aws-us-gov", regions: /^us-gov-\w+-\d+$/, dnsSuffix: "amazonaws.com" },
  { id: "aws-eusc", regions: /^eusc-de-\w+-\d+$/, dnsSuffix: "amazonaws.eu" },
  { id: "aws-iso", regions: /^us-iso-\w+-\d+$/, dnsSuffix: "c2s.ic.gov" },
  { id: "aws-iso-b", regions: /^us-isob-\w+-\d+$/, dnsSuffix: "sc2s.sgov.gov" },
  { id: "aws-iso-e", regions: /^eu-isoe-\w+-\d+$/, dnsSuffix: "cloud.adc-e.uk" },
  { id: "aws-iso-f", regions: /^us-isof-\w+-\d+$/, dnsSuffix: "csp.hci.ic.gov" },
  AWS,
];

/** The partition of a region; undefined for a text that is not an AWS region. */
export function partitionOf(region: string): Partition | undefined {
  return PARTITIONS.find(({ regions }) => regions.test(region));
}

/** The partition of a region; `aws`, as boto3 does, for a text that is not an AWS region. */
export function partitionOrDefault(region: string): Partition {
  return partitionOf(region) ?? AWS;
}
