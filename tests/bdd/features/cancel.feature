Feature: Cancel
  A cancel is answered when it holds: no token leaves after it, and the slot goes to the next.

  Background:
    Given the workstation "shared"

  Scenario: A running task stops, and the slot serves who waits
    Given Ada has submitted "endless" to pool "narrow"
      | max_tokens | 1000 |
    And Bob has submitted "next" to pool "narrow"
      | max_tokens | 2 |
    When the reader of "endless" has seen a token
    And "endless" is cancelled
    Then the answer is 204
    And "endless" ends with canceled
    And no token of "endless" follows its cancel
    And the status of "endless" says
      | state | canceled |
    And "next" ends with length after 2 tokens

  Scenario: A waiting task leaves its queue and never runs
    Given every slot of pool "narrow" is busy
    And Ada has submitted "regretted" to pool "narrow"
    When "regretted" is cancelled
    Then the answer is 204
    And "regretted" ends with canceled after 0 tokens
    And pool "narrow" says
      | metrics.queue_depth.interactive | 0 |
    And the status of "regretted" says
      | state      | canceled |
      | replica_id | absent   |

  Scenario: Cancelling twice is cancelling once; cancelling what is over changes nothing
    Given Ada has submitted "short" to pool "both"
      | max_tokens | 2 |
    Then "short" ends with length after 2 tokens
    When "short" is cancelled
    Then the answer is 204
    When "short" is cancelled
    Then the answer is 204
    And the status of "short" says
      | state | ended |

  Scenario: A reader who hangs up takes the task along
    Given Ada has submitted "endless" to pool "narrow"
      | max_tokens | 1000 |
    When the reader of "endless" has seen a token
    And the reader of "endless" hangs up
    Then "endless" becomes canceled
    And the slots of pool "narrow" are free again

  Scenario: A reader who comes back misses nothing and sees nothing twice
    Given Ada has submitted "story" to pool "both"
      | max_tokens | 60 |
    When the reader of "story" has seen a token
    And the reader of "story" hangs up and comes back
    Then "story" ends with length after 60 tokens

  Scenario: A task that nobody knows cannot be cancelled
    When somebody asks POST "/v1/tasks/11111111-2222-3333-4444-555555555555/cancel"
    Then the answer is 404 INVALID_PARAMS
