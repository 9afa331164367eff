Feature: Backpressure
  A full queue says so, says why, and says when to come back.

  Background:
    Given the workstation "shared"

  Scenario Outline: One task more than the queue holds is answered 429
    Given every slot of pool "narrow" is busy
    And Ada has submitted "waiting" to pool "narrow"
      | priority   | <priority> |
      | max_tokens | 2          |
    When Bob submits "too many" to pool "narrow"
      | priority | <priority> |
    Then the answer is 429 ADMISSION_REJECT
    And the answer says
      | policy_label | reject |
      | engine       | mock   |
      | pool_id      | narrow |
    And the answer says when to come back
    When the slots of pool "narrow" become free
    Then "waiting" ends with length after 2 tokens
    When "too many" is sent again
    Then the answer is 202

    Examples:
      | priority    |
      | interactive |
      | batch       |

  Scenario: A full queue of one class does not fill the other
    Given every slot of pool "narrow" is busy
    And Ada has submitted "interactive" to pool "narrow"
    When Bob submits "batch" to pool "narrow"
      | priority | batch |
    Then the answer is 202
    And pool "narrow" says
      | metrics.queue_depth.interactive | 1 |
      | metrics.queue_depth.batch       | 1 |
