@slow
Feature: Throttles
  One client that runs wild is held back, and told for how long; the others are not.

  Background:
    Given the workstation "throttled"

  Scenario: More tasks at once than the burst
    Given Ada has submitted "first" to pool "both"
      | max_tokens | 1 |
    And Ada has submitted "second" to pool "both"
      | max_tokens | 1 |
    When Ada submits "third" to pool "both"
      | max_tokens | 1 |
    Then the answer is 429 ADMISSION_REJECT
    And the answer says
      | policy_label | throttle |
    And the answer says when to come back
    When somebody asks GET "/v1/capabilities"
    Then the answer says
      | engines.0.rate_limits.burst | 2 |
    When "first" is sent again
    Then the answer is 202
