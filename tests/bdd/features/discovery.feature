Feature: Discovery
  What can be asked for is told by the daemons that serve it.

  Background:
    Given the workstation "shared"

  Scenario: Capabilities add up what the pool daemons have, and have a tag
    When somebody asks GET "/v1/capabilities"
    Then the answer is 200
    And the answer says
      | engines.0.engine      | mock         |
      | engines.0.model_ref   | mock:both    |
      | engines.0.ctx_max     | 8192         |
      | engines.0.concurrency | 2            |
      | engines.0.pools       | ["both"]     |
    And the header "ETag" is kept as "tag"
    When somebody asks GET "/v1/capabilities" with the headers
      | If-None-Match | {tag} |
    Then the answer is 304

  Scenario: A pool tells each of its GPUs
    When somebody asks GET "/v1/pools/both/health"
    Then the answer is 200
    And the answer says
      | ready                                     | true      |
      | draining                                  | false     |
      | replicas.0.replica_id                     | both:0    |
      | replicas.1.replica_id                     | both:1    |
      | metrics.slots_total                       | 2         |

  Scenario: Text is counted by the engine that would read it
    When somebody sends POST "/v1/tokenize"
      """
      {"model_ref": "mock:both", "text": "three words here"}
      """
    Then the answer is 200
    And the answer says
      | count | > 2 |

  Scenario: A worker unlike its set is refused
    When somebody sends POST "/v1/workers/register"
      """
      {"pool_id": "both", "replica_id": "both:1", "engine": "mock", "engine_version": "mock-2",
       "sampler_profile_version": "v1", "slots_total": 1}
      """
    Then the answer is 409 INVALID_PARAMS
