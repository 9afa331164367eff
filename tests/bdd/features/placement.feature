@slow
Feature: Placement overrides
  A client may say where its task is to run; what cannot be is refused, with the reason.

  Background:
    Given the workstation "varied"

  Scenario: Without a wish the GPU with more free memory takes it
    Given Ada has submitted "free" for the model "pair"
    Then the status of "free" says
      | pool_id         | large |
      | decision.pinned | false |

  Scenario: A pinned task runs in its pool only, and waits for it
    Given Ada has submitted "pinned" for the model "pair"
      | placement.mode        | pin   |
      | placement.pin_pool_id | small |
      | max_tokens            | 1000  |
    Then the status of "pinned" says
      | pool_id         | small |
      | decision.pinned | true  |
    Given Bob has submitted "behind it" for the model "pair"
      | placement.mode        | pin   |
      | placement.pin_pool_id | small |
    Then "behind it" is queued now

  Scenario: A pool that does not fit cannot be pinned
    When Ada submits "impossible" for the model "pair"
      | placement.mode        | pin    |
      | placement.pin_pool_id | frail |
    Then the answer is 503 POOL_UNAVAILABLE
    And the answer says
      | message | holds pinned_pool_infeasible |

  Scenario: Preferred pools go first, others after them if the client allows it
    Given Ada has submitted "preferred" for the model "pair"
      | placement.mode         | prefer    |
      | placement.prefer_pools | ["small"] |
    Then the status of "preferred" says
      | pool_id | small |
    When Ada submits "fallback" for the model "pair"
      | placement.mode         | prefer     |
      | placement.prefer_pools | ["frail"] |
    Then the answer is 202
    And the status of "fallback" says
      | decision.fallback_used | true |
    When Ada submits "no fallback" for the model "pair"
      | placement.mode           | prefer     |
      | placement.prefer_pools   | ["frail"] |
      | placement.allow_fallback | false      |
    Then the answer is 503 POOL_UNAVAILABLE
    And the answer says
      | message | holds no_preferred_feasible |

  Scenario: Pools to avoid are left out, and masks are exact
    Given Ada has submitted "elsewhere" for the model "pair"
      | placement.avoid_pools | ["large"] |
    Then the status of "elsewhere" says
      | pool_id | small |
    Given Bob has submitted "on the second" to pool "both"
      | placement.require_device_mask | [1]  |
      | max_tokens                    | 1000 |
    Then "on the second" becomes running
    And the status of "on the second" says
      | replica_id | both:1 |
    When Cleo submits "on both at once" to pool "both"
      | placement.require_device_mask | [0, 1] |
    Then the answer is 503 POOL_UNAVAILABLE

  Scenario Outline: Wishes that contradict each other are refused with the field
    When Ada submits "unclear" for the model "pair"
      | <field> | <value> |
    Then the answer is 400 INVALID_PARAMS
    And the answer says
      | message | holds placement |

    Examples:
      | field                  | value       |
      | placement.mode         | pin         |
      | placement.mode         | prefer      |
      | placement.pin_pool_id  | small       |
      | placement.mode         | somewhere   |

  Scenario: What would become of a task is explained, and nothing happens
    When Ada asks what would become of "a thought" for the model "pair"
    Then the answer is 200
    And the answer says
      | decision.selected | large:0 |
    And pool "large" says
      | metrics.slots_active            | 0 |
      | metrics.queue_depth.interactive | 0 |
    When "a thought" is cancelled
    Then the answer is 404 INVALID_PARAMS
